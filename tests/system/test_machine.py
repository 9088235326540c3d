"""What the machine says about itself: real processes, and files as kernels write them."""

import json
import mmap
import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.children import run_python

from dqn_zoo.errors import UserError
from dqn_zoo.runs.finding import find_run
from dqn_zoo.runs.manifest import (
    Setup,
    append_invocation,
    end_invocation,
    goal_steps,
    has_finished,
    read_manifest,
    write_manifest,
)
from dqn_zoo.runs.run import Run, claim_run
from dqn_zoo.system import machine
from dqn_zoo.system.machine import (
    _keep_freed_memory,
    check_memory,
    default_num_threads,
    describe_machine,
    memory_available_bytes,
    process_memory_bytes,
    supports_bfloat16,
    usable_cores,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
GB = 10**9
SETUP = Setup(device="cpu", num_threads=2, evaluation_threads=2, precision="float32")


def write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def python(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_a_replay_memory_that_is_too_large_names_the_one_that_fits() -> None:
    with pytest.raises(UserError) as caught:
        check_memory(
            7_100_000_000, 7_000, key="buffer_size", size=1_000_000, available=3_900_000_000
        )
    assert str(caught.value) == (
        "buffer_size needs 7.1 GB and 3.9 GB is free; "
        "the largest that fits is 540_000: --set buffer_size=540000"
    )
    check_memory(
        100_000_000 + 540_000 * 7_000,
        7_000,
        key="buffer_size",
        size=540_000,
        available=3_900_000_000,
    )


def test_a_replay_memory_that_fits_is_accepted() -> None:
    check_memory(7 * GB, 7_000, key="buffer_size", size=1_000_000, available=7 * GB)


def test_where_nothing_fits_no_size_is_suggested() -> None:
    with pytest.raises(UserError, match="not even the smallest fits: free some memory"):
        check_memory(2 * GB, 7_000, key="buffer_size", size=10, available=1 * GB)


@linux
def test_the_limit_of_the_address_space_counts(tmp_path: Path) -> None:
    code = (
        "import os, psutil, resource\nfrom pathlib import Path\n"
        "from dqn_zoo.system.machine import memory_available_bytes\n"
        "print(memory_available_bytes())\n"
        "size = psutil.Process().memory_info().vms\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size + 200_000_000, -1))\n"
        "print(memory_available_bytes())\n"
        # A process that is really beyond its limit may fail to read a file.
        f"own, proc = str(os.getpid()), Path({str(tmp_path)!r})\n"
        "(proc / own).mkdir()\n"
        "for name in ('meminfo', own + '/stat'):\n"
        "    (proc / name).write_bytes((Path('/proc') / name).read_bytes())\n"
        "pages = (size + 300_000_000) // resource.getpagesize()\n"
        "(proc / own / 'statm').write_text(f'{pages} 1 1 1 0 1 0')\n"
        "psutil.PROCFS_PATH = str(proc)\n"
        "print(memory_available_bytes())\n"
    )
    free, limited, nothing = map(int, python(code).split())
    assert free > 300_000_000
    assert 190_000_000 < limited <= 200_000_000
    assert nothing == 0


def test_memory_in_use_grows_with_what_is_written() -> None:
    # A map of its own: the heap may have kept as much from an earlier test.
    block = mmap.mmap(-1, 50_000_000)
    before = process_memory_bytes()
    for place in range(0, len(block), mmap.ALLOCATIONGRANULARITY):
        block[place] = 1
    after = process_memory_bytes()
    assert 40_000_000 < after - before < 80_000_000
    block.close()
    assert memory_available_bytes() > 0


def test_every_level_of_a_version_2_container_counts(tmp_path: Path) -> None:
    proc = write(tmp_path / "proc", {"self/cgroup": "0::/pod/job\n"})
    cgroups = write(
        tmp_path / "cgroup",
        {
            "pod/job/memory.max": "max\n",
            "pod/job/memory.current": "100\n",
            "pod/memory.max": "5000\n",
            "pod/memory.current": "3000\n",
            "pod/memory.stat": "anon 2000\ninactive_file 700\nactive_file 300\n",
            "memory.max": "9000\n",
            "memory.current": "3100\n",
            "pod/job/cpu.max": "max 100000\n",
            "pod/cpu.max": "150000 100000\n",
        },
    )
    assert list(machine._container_headrooms(proc, cgroups)) == [5000 - (3000 - 700), 5900]
    assert list(machine._cpu_quotas(proc, cgroups)) == [1.5]


def test_a_version_1_container_counts_where_only_its_top_is_mounted(tmp_path: Path) -> None:
    cgroup = "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/\n"
    proc = write(tmp_path / "proc", {"self/cgroup": cgroup})
    cgroups = write(
        tmp_path / "cgroup",
        {
            "memory/memory.limit_in_bytes": "8000\n",
            "memory/memory.usage_in_bytes": "3000\n",
            "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 400\n",
            "cpu/cpu.cfs_quota_us": "250000\n",
            "cpu/cpu.cfs_period_us": "100000\n",
        },
    )
    assert list(machine._container_headrooms(proc, cgroups)) == [8000 - (3000 - 400)]
    assert list(machine._cpu_quotas(proc, cgroups)) == [2.5]
    write(cgroups, {"cpu/cpu.cfs_quota_us": "-1\n"})
    assert list(machine._cpu_quotas(proc, cgroups)) == []


def test_no_control_groups_mean_no_limit(tmp_path: Path) -> None:
    assert list(machine._container_headrooms(tmp_path, tmp_path)) == []
    assert list(machine._cpu_quotas(tmp_path, tmp_path)) == []


def test_threads_follow_the_cores_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert [default_num_threads("cpu", cores) for cores in (0, 1, 2, 8, 64)] == [1, 1, 2, 8, 8]
    assert [default_num_threads("cuda", cores) for cores in (1, 2, 64)] == [1, 1, 1]
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
    for asked, device, threads in (
        ("3", "cpu", 3),
        ("4,2", "cuda", 4),
        ("0", "cpu", 2),
        ("", "cpu", 2),
    ):
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
        assert default_num_threads(device, 2) == threads


@linux
def test_bfloat16_is_what_the_kernel_says(tmp_path: Path) -> None:
    proc = write(tmp_path, {"cpuinfo": "processor : 0\nFeatures : fp asimd bf16\nprocessor : 1\n"})
    assert machine._cpu_flags(proc) == {"fp", "asimd", "bf16"}
    flags = set(Path("/proc/cpuinfo").read_text().split())
    assert supports_bfloat16("cpu") == bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


@pytest.mark.parametrize(
    ("capability", "fast"), [((7, 0), False), ((7, 5), False), ((8, 0), True), ((9, 0), True)]
)
def test_a_gpu_multiplies_in_bfloat16_from_compute_capability_8_on(
    capability: tuple[int, int], fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: capability)
    assert supports_bfloat16("cuda") is fast


def test_the_description_is_json_with_versions_and_without_the_host_name() -> None:
    description = json.loads(json.dumps(describe_machine()))
    versions = description["versions"]
    assert set(versions) == set(machine.PACKAGES)
    assert versions["torch"] == __import__("torch").__version__
    assert versions["numpy"] == __import__("numpy").__version__
    assert description["python"] == ".".join(map(str, sys.version_info[:3]))
    assert description["memory_bytes"] > GB
    assert description["cpu"]
    assert platform.node() not in json.dumps(description)


def test_describing_the_machine_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom dqn_zoo.system.machine import describe_machine\ndescribe_machine()\n"
        "print({'torch', 'numpy', 'gymnasium', 'ale_py'} & set(sys.modules))"
    )
    assert python(code).strip() == "set()"


def test_the_git_revision_of_a_checkout_tells_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=name", "-c", "user.email=mail@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        subprocess.run(command, check=True, capture_output=True)

    assert machine._git_revision(tmp_path) is None
    git("init")
    assert machine._git_revision(tmp_path) is None
    write(tmp_path, {"code.py": "1\n"})
    git("add", "code.py")
    git("commit", "-m", "first")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    clean = machine._git_revision(tmp_path)
    write(tmp_path, {"untracked.txt": ""})
    assert clean is not None
    assert len(clean["revision"]) == 40
    assert machine._git_revision(tmp_path) == {"revision": clean["revision"], "dirty": False}
    write(tmp_path, {"code.py": "2\n"})
    assert machine._git_revision(tmp_path) == {"revision": clean["revision"], "dirty": True}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = claim_run(tmp_path, "dqn", "Pong")
    run.config_file.write_text("env: Pong\n")
    command = ["dqn-train", "--env", "Pong", "--set", "crop=[1, 2, 3, 4]"]
    write_manifest(
        run,
        SETUP,
        command=command,
        seed=17,
        protocol={"name": "zoo", "noop_max": 30},
        until_steps=900,
    )
    return run


def test_the_manifest_records_how_a_run_was_made(run: Run, tmp_path: Path) -> None:
    manifest = read_manifest(run)
    assert manifest["seed"] == 17
    assert manifest["protocol"] == {"name": "zoo", "noop_max": 30}
    assert (manifest["device"], manifest["num_threads"], manifest["precision"]) == (
        "cpu",
        2,
        "float32",
    )
    assert manifest["command"] == "dqn-train --env Pong --set 'crop=[1, 2, 3, 4]'"
    assert manifest["versions"] == describe_machine()["versions"]
    assert find_run(tmp_path, run="Pong_1") == run
    (invocation,) = manifest["invocations"]
    assert invocation["started"].endswith("+00:00")
    assert invocation["resumed_from_step"] is None
    assert invocation["end_reason"] is None


def test_every_resume_is_recorded_with_why_the_last_one_ended(run: Run) -> None:
    seconds = {"update": 2.00049, "acting": 1.0}
    end_invocation(run, "SIGTERM", step=4321, seconds=seconds, updates="CUDA graph")
    command = ["dqn-train", "--resume", "Pong_1"]
    assert (
        append_invocation(run, SETUP, command=command, until_steps=900, resumed_from_step=4000)
        == []
    )
    first, second = read_manifest(run)["invocations"]
    assert (first["end_reason"], first["end_step"]) == ("SIGTERM", 4321)
    assert first["seconds"] == {"update": 2.0, "acting": 1.0}
    assert (first["updates"], second["updates"]) == ("CUDA graph", None)
    assert second["seconds"] is None
    assert (second["end_reason"], second["resumed_from_step"]) == (None, 4000)
    assert second["command"] == "dqn-train --resume Pong_1"
    assert sorted(path.name for path in run.path.iterdir()) == ["config.yml", "manifest.json"]


def test_a_resume_on_another_machine_says_what_differs(run: Run) -> None:
    manifest = read_manifest(run)
    manifest["versions"]["torch"] = "1.0"
    manifest["cores"] = 999  # decides how many games an evaluation plays at once
    manifest["platform"] = "another kernel does not change the bits"
    run.manifest_file.write_text(json.dumps(manifest))
    setup = Setup(device="cpu", num_threads=5, evaluation_threads=2, precision="float32")
    changes = append_invocation(
        run, setup, command=["dqn-train"], until_steps=900, resumed_from_step=1
    )
    machine = describe_machine()
    assert changes == [
        "num_threads: 2 before, 5 now",
        f"cores: 999 before, {machine['cores']} now",
        f"torch: 1.0 before, {machine['versions']['torch']} now",
    ]
    assert read_manifest(run)["invocations"][1]["changes"] == changes
    assert read_manifest(run)["num_threads"] == 2


def test_the_threads_of_evaluations_count_but_for_runs_that_did_not_note_them(run: Run) -> None:
    more = replace(SETUP, evaluation_threads=7)
    resumed = {"command": ["dqn-train"], "until_steps": 900, "resumed_from_step": 1}
    assert append_invocation(run, more, **resumed) == ["evaluation_threads: 2 before, 7 now"]
    manifest = read_manifest(run)
    del manifest["evaluation_threads"], manifest["invocations"][1]
    run.manifest_file.write_text(json.dumps(manifest))
    assert append_invocation(run, more, **resumed) == []


@pytest.mark.parametrize("content", ["", "{}", '{"invocations": []}', "[1]"])
def test_a_damaged_manifest_is_an_error_of_one_line(run: Run, content: str) -> None:
    run.manifest_file.write_text(content)
    with pytest.raises(UserError, match=r"manifest\.json is damaged: .*; restore it") as caught:
        end_invocation(run, "finished", step=1, seconds={}, updates="eager")
    assert "\n" not in str(caught.value)


@linux
def test_a_full_disk_keeps_the_old_manifest(run: Run) -> None:
    before = run.manifest_file.read_bytes()
    code = (
        "import resource, signal\nfrom pathlib import Path\n"
        "from dqn_zoo.runs.manifest import end_invocation\nfrom dqn_zoo.runs.run import Run\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, -1))\n"
        f"run = Run(Path({str(run.path)!r}))\n"
        "try: end_invocation(run, 'finished', step=1, seconds={}, updates='eager')\n"
        "except ValueError as error: print(type(error).__name__, error)\n"
    )
    output = python(code)
    assert output.startswith("UserError ")
    assert "manifest.json cannot be written: File too large" in output
    assert run.manifest_file.read_bytes() == before
    assert sorted(path.name for path in run.path.iterdir()) == ["config.yml", "manifest.json"]


def test_an_earlier_resume_on_another_setup_is_not_forgotten(run: Run) -> None:
    resumed = {"command": ["dqn-train"], "until_steps": 900, "resumed_from_step": 1}
    other = Setup(device="cpu", num_threads=5, evaluation_threads=2, precision="float32")
    append_invocation(run, other, **resumed)
    found = append_invocation(run, SETUP, **resumed)
    assert found == ["an earlier resume had num_threads: 2 before, 5 now"]
    assert read_manifest(run)["invocations"][-1]["changes"] == []


def test_a_run_has_finished_when_it_reached_the_largest_goal_it_was_given(run: Run) -> None:
    assert not has_finished(read_manifest(run))
    end_invocation(run, "finished", step=900, seconds={}, updates="eager")
    assert has_finished(read_manifest(run))
    append_invocation(run, SETUP, command=["dqn-train"], until_steps=2_000, resumed_from_step=900)
    assert goal_steps(read_manifest(run)) == 2_000
    assert not has_finished(read_manifest(run))
    end_invocation(run, "time_limit", step=1_500, seconds={}, updates="eager")
    assert not has_finished(read_manifest(run))


FAULTS_OF_A_LARGE_TENSOR = """
import resource, sys, torch
from dqn_zoo.system.machine import keep_freed_memory
torch.set_num_threads(1)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(30):
        torch.ones(10_000_000)  # 40 MB: by default glibc maps everything above 32 MB anew
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

returned = faults()
if not keep_freed_memory():
    sys.exit("not with this C library")
print(returned, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_memory_that_was_freed_is_not_mapped_anew():
    returned, kept = map(int, run_python(FAULTS_OF_A_LARGE_TENSOR).split())
    assert 0 < 2 * kept < returned


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (2**31, [(-3, 2**28), (-1, 2**31 - 1), (-2, 2**26)]),
        (2**25, [(-3, 2**28), (-3, 2**25), (-1, 2**31 - 1), (-2, 2**26)]),  # glibc 2.34
        (0, [(-3, 2**28), (-3, 2**25)]),  # nothing is set: glibc's own adaptation stays
    ],
)
def test_an_older_c_library_takes_a_smaller_threshold(most, expected):
    asked = []

    def mallopt(option, value):
        asked.append((option, value))
        return int(option != -3 or value <= most)

    assert _keep_freed_memory(mallopt) is (most > 0)
    assert asked == expected
