"""How many cores a process may use: the CPU quotas of its control groups count."""

from __future__ import annotations

import os

import pytest

from lanewise.cores import count_cores, usable_cores


def make(root, cgroup, **files):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for path, text in files.items():
        file = root / "sys/fs/cgroup" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


V2 = "0::/\n"
V1 = "9:name=systemd:/a\n3:cpu,cpuacct:/docker/abc\n2:memory:/docker/abc\n"


@pytest.mark.parametrize(
    ("cgroup", "files", "cores"),
    [
        (V2, {}, 64),
        (V2, {"cpu.max": "max 100000\n"}, 64),
        (V2, {"cpu.max": "200000 100000\n"}, 2),
        (V2, {"cpu.max": "150000 100000\n"}, 2),
        (V2, {"cpu.max": "10000 100000\n"}, 1),
        (V2, {"cpu.max": "9900000 100000\n"}, 64),
        ("0::/pod/c\n", {"pod/cpu.max": "300000 100000", "pod/c/cpu.max": "max 100000"}, 3),
        ("0::/pod/c\n", {"cpu.max": "400000 100000"}, 4),
        ("0::/../..\n", {"cpu.max": "400000 100000"}, 4),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 64),
        (
            V1,
            {"cpu,cpuacct/cpu.cfs_quota_us": "250000", "cpu,cpuacct/cpu.cfs_period_us": "1e5"},
            64,
        ),
        (
            V1,
            {
                "cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "250000\n",
                "cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        ("1:cpu:/x\n", {"cpu/cpu.cfs_quota_us": "500000", "cpu/cpu.cfs_period_us": "100000"}, 5),
        (V2, {"cpu.max": "nonsense"}, 64),
    ],
)
def test_a_quota_counts_as_so_many_cores(tmp_path, cgroup, files, cores):
    make(tmp_path, cgroup, **files)

    assert count_cores(64, tmp_path) == cores


def test_without_control_groups_the_cores_it_may_run_on_count(tmp_path):
    assert count_cores(5, tmp_path) == 5


def test_this_process_may_use_a_core():
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))
