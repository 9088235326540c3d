"""Two Ray nodes on this machine, a sweep on them, and one of them lost while it works.

    ray_nodes.py FOLDER [RESULTS]

The second node is lost when so many jobs (default: 0) have their results, and two others something
to lose. Run in a network namespace that has the loopback device alone; prints one JSON object.
"""

import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dqn_zoo.experiments.plan import Sweep

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}

SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1


def bring_loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def main() -> None:
    sweep = Sweep.open(Path(sys.argv[1]))
    wanted = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    bring_loopback_up()
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "node_ip_address": "127.0.0.1"}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    second = cluster.add_node(**node)
    cluster.wait_for_nodes()
    command = [sys.executable, "-m", "dqn_zoo.cli.bench", "-f", str(sweep.folder)]
    command += ["--ray", cluster.address]
    begin = time.monotonic()
    with tempfile.TemporaryFile("w+") as printed:
        driver = subprocess.Popen(command, stdout=printed)
        while (counts := count(sweep))[0] < wanted or counts[1] < 2:
            assert driver.poll() is None, "the driver ended"
            time.sleep(0.05 if counts[0] + 2 >= wanted else 2.0)  # a look at all jobs costs time
        cluster.remove_node(second, allow_graceful=False)
        _, status, usage = os.wait4(driver.pid, 0)
        printed.seek(0)
        outcome = {
            "code": os.waitstatus_to_exitcode(status),
            "printed": printed.read(),
            "interfaces": [name for _, name in socket.if_nameindex()],
            "done_before": counts[0],
            "seconds": time.monotonic() - begin,
            "driver_cpu_s": usage.ru_utime + usage.ru_stime,
            "driver_peak_mib": usage.ru_maxrss / 1024,
        }
    print(json.dumps(outcome))
    cluster.shutdown()


def count(sweep: Sweep) -> tuple[int, int]:
    """Return how many jobs are done, and how many others have something to lose."""
    done = [job for job in sweep.plan.jobs() if sweep.is_done(job)]
    others = set(sweep.plan.jobs()) - set(done)
    return len(done), sum(any(sweep.run(job).checkpoints.glob("step_*[0-9]")) for job in others)


if __name__ == "__main__":
    main()
