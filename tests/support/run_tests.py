"""What tests/run does after the packages are there: fetch, build, check, test, count.

Everything that needs the network happens in fetch(); after it the tests run in a network namespace that
has the loopback device only, where the machine allows one.
"""

import argparse
import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = pathlib.Path(os.environ.get("MODELD_TEST_CACHE", "~/.cache/modeld-tests")).expanduser()
CORES = len(os.sched_getaffinity(0))

# Test programs that ThreadSanitizer cannot judge: the real model is too slow under it.
NOT_UNDER_TSAN = {"engine_real_test"}
# A test program that takes longer hangs.
PROGRAM_SECONDS_MAX = {"release": 600, "asan": 1500, "tsan": 2400}
LONG_PROGRAM_SECONDS = 900  # more with --long


class Result:
    """Counts of one test program or check, with what it printed if it failed."""

    def __init__(self, name, passed=0, failed=0, output=""):
        self.name, self.passed, self.failed, self.output = name, passed, failed, output


def run(command, **kwargs):
    return subprocess.run(command, cwd=ROOT, check=True, **kwargs)


def say(text):
    print(f"tests/run: {text}", flush=True)


def make_venv(requirements, name):
    """A virtual environment that holds exactly `requirements`; made anew when they change."""
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:16]
    venv = CACHE / f"{name}-{digest}"
    if (venv / "ready").exists():
        return venv
    shutil.rmtree(venv, ignore_errors=True)
    say(f"making {venv}")
    run([sys.executable, "-m", "venv", str(venv)])
    pip = [str(venv / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*pip, "-r", str(requirements)])
    (venv / "ready").touch()
    return venv


def fetch():
    """Everything from outside: tools, real clients, the real models, the crates."""
    CACHE.mkdir(parents=True, exist_ok=True)
    style = make_venv(ROOT / "tests/style/requirements.txt", "style")
    clients = make_venv(ROOT / "tests/requirements.txt", "clients")
    old_hub = make_venv(ROOT / "tests/requirements-old-hub.txt", "old-hub")
    models = CACHE / "models"
    run([str(clients / "bin/python"), "deploy/hub/demo_models.py", str(models)])
    templates = str(CACHE / "templates")
    run([str(clients / "bin/python"), "tests/support/real_templates.py", templates])
    cargo = shutil.which("cargo") or os.path.expanduser("~/.cargo/bin/cargo")
    run([cargo, "fetch", "--locked", "--quiet", "--manifest-path", "server/engine/text/crate/Cargo.toml"])
    return style, clients, old_hub, models


def build(preset):
    started = time.monotonic()
    log = ROOT / "build" / f"{preset}.log"
    log.parent.mkdir(exist_ok=True)
    with open(log, "w", encoding="utf-8") as out:
        verify_headers = "ON" if preset == "release" else "OFF"
        configure = ["cmake", "--preset", preset, f"-DCMAKE_VERIFY_INTERFACE_HEADER_SETS={verify_headers}"]
        compile_all = ["cmake", "--build", "--preset", preset]
        for command in (configure, compile_all):
            done = subprocess.run(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
            if done.returncode != 0:
                out.flush()
                print(log.read_text(errors="replace")[-8000:])
                say(f"the build failed: {log}")
                return Result("build", failed=1)
    say(f"built {preset} in {time.monotonic() - started:.0f} s")
    return Result("build", passed=1)


def headers_stand_alone(preset):
    """CMake's own check: each header of a HEADERS file set compiled by itself."""
    target = "all_verify_interface_header_sets"
    done = subprocess.run(
        ["cmake", "--build", f"build/{preset}", "--target", target],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    ok = done.returncode == 0
    return Result("headers stand alone", int(ok), int(not ok), done.stdout[-6000:])


def style_checks(venv):
    done = subprocess.run(
        [sys.executable, "tests/style/check.py", "--tools", str(venv / "bin")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    passed = len(re.findall(r"^ok ", done.stdout, re.M))
    failed = len(re.findall(r"^FAILED ", done.stdout, re.M))
    if done.returncode != 0 and failed == 0:
        failed = 1
    return Result("style", passed, failed, done.stdout[-8000:])


def offline():
    """The prefix that runs a command in a network namespace with loopback only, if that can be had."""
    prefix = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    tried = subprocess.run([*prefix, "true"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return prefix if tried.returncode == 0 else []


def environment(preset, clients, old_hub, models):
    support = ROOT / "tests/support"
    env = dict(os.environ)
    env.pop("HF_TOKEN", None)
    env.update(
        MODELD_BUILD=str(ROOT / "build" / preset),
        MODELD_PRESET=preset,
        MODELD_TEST_MODELS=str(models),
        MODELD_TEST_TEMPLATES=str(CACHE / "templates"),
        MODELD_PYTHON=str(clients / "bin/python"),
        MODELD_OLD_HUB_PYTHON=str(old_hub / "bin/python"),
        ASAN_OPTIONS="detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=1",
        LSAN_OPTIONS=f"suppressions={support}/lsan.supp:print_suppressions=0",
        UBSAN_OPTIONS="print_stacktrace=1",
        # libgomp's threads spin by default, which starves everything else on two cores.
        OMP_WAIT_POLICY="passive",
        TSAN_OPTIONS=f"suppressions={support}/tsan.supp:ignore_noninstrumented_modules=1:halt_on_error=0",
    )
    if preset == "tsan":
        env["OMP_NUM_THREADS"] = "1"
    return env


def gtest_program(program, prefix, env, preset):
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "report.json"
        command = [*prefix, str(program), f"--gtest_output=json:{report}", "--gtest_brief=1"]
        if env.get("MODELD_GTEST_FILTER"):
            command.append(f"--gtest_filter={env['MODELD_GTEST_FILTER']}")
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=PROGRAM_SECONDS_MAX[preset] + (LONG_PROGRAM_SECONDS if env["MODELD_LONG"] else 0),
                errors="replace",
                text=True,
            )
            code, output = done.returncode, done.stdout
        except subprocess.TimeoutExpired as expired:
            code, output = -1, (expired.stdout or b"").decode(errors="replace") + "\nit hung"
        if not report.exists():
            return Result(program.name, failed=1, output=output)
        counts = json.loads(report.read_text())
    failed = counts["failures"] + counts.get("errors", 0)
    # A sanitizer reports at the end: the tests passed, the program did not.
    if code != 0 and failed == 0:
        failed = 1
    return Result(program.name, counts["tests"] - counts["failures"], failed, output)


def pytest_suite(prefix, env, clients, pattern):
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "report.xml"
        command = [
            *prefix,
            str(clients / "bin/python"),
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--tb=short",
            f"--junitxml={report}",
            "tests/e2e",
        ]
        if pattern:
            command += ["-k", pattern]
        env = dict(env, PYTHONDONTWRITEBYTECODE="1")
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            errors="replace",
            text=True,
        )
        if done.returncode == 5 and pattern:
            return Result("e2e")
        if not report.exists():
            return Result("e2e", failed=1, output=done.stdout[-8000:])
        suite = xml.etree.ElementTree.parse(report).getroot().find("testsuite")
    tests, bad = int(suite.get("tests")), int(suite.get("failures")) + int(suite.get("errors"))
    # A skipped test is one that did not run, and everything here must run.
    bad += int(suite.get("skipped"))
    return Result("e2e", tests - bad, bad, done.stdout[-20000:])


def all_results(args):
    style_venv, clients, old_hub, models = fetch()
    yield build(args.preset)
    env = environment(args.preset, clients, old_hub, models)
    env["MODELD_LONG"] = "1" if args.long else ""
    prefix = offline()
    say("the tests run " + ("without any network but loopback" if prefix else "with the network as it is"))
    if args.preset == "release" and not args.filter:
        yield style_checks(style_venv)
        yield headers_stand_alone(args.preset)
    programs = sorted((ROOT / "build" / args.preset / "bin/tests").glob("*_test"))
    if args.preset == "tsan":
        programs = [p for p in programs if p.name not in NOT_UNDER_TSAN]
    if args.filter:
        programs = [p for p in programs if re.search(args.filter, p.name)]
    with concurrent.futures.ThreadPoolExecutor(CORES) as pool:
        yield from pool.map(lambda p: gtest_program(p, prefix, env, args.preset), programs)
    if args.preset != "tsan" and (not args.filter or "e2e" in args.filter):
        yield pytest_suite(prefix, env, clients, args.only)


def main():
    parser = argparse.ArgumentParser(prog="tests/run")
    parser.add_argument("--preset", choices=["release", "asan", "tsan"], default="release")
    parser.add_argument(
        "--filter", help="only test programs whose name this matches; e2e for the end-to-end ones"
    )
    parser.add_argument("--only", help="pytest's -k for the end-to-end tests")
    parser.add_argument("--long", action="store_true", help="longer fuzzing and more random points")
    args = parser.parse_args()
    started = time.monotonic()
    passed = failed = 0
    for result in all_results(args):
        passed, failed = passed + result.passed, failed + result.failed
        word = "FAILED" if result.failed else "ok"
        print(f"{word:6} {result.name}: {result.passed} passed, {result.failed} failed", flush=True)
        if result.failed:
            print(result.output)
        if result.name == "build" and result.failed:
            break
    say(f"took {time.monotonic() - started:.0f} s")
    print(f"{passed} passed, {failed} failed", flush=True)
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
