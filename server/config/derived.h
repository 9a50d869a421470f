// What follows from the machine and the environment where the configuration is silent, and the
// secrets.
#pragma once

#include "server/config/config.h"

namespace modeld {

// Fills every value that is empty or 0 and stands for something else, and reads the secrets.
void FillDerived(const ConfigSources& sources, ConfigResult& result);

}  // namespace modeld
