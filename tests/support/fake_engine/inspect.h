// `fake_engine inspect`: the request of `modeld-engine inspect`, answered without knowledge of
// tensors.
#pragma once

namespace modeld {

// Reads stdin, prints an Inspection, gives the exit status. Sizes follow from the listing (every
// *.safetensors and *.bin file holds weights of 2 bytes) and from config.json; its key
// "fake_inspection" overrides any field, and "fake_inspect" is "crash", "hang", "flood" or
// "garbage".
int FakeInspect();

}  // namespace modeld
