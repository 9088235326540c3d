"""Two Ray nodes on this machine, a sweep on them, and one of them lost while it works.

Run in a network namespace that has the loopback device alone; prints one JSON object.
"""

import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}

SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1


def bring_loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def main() -> None:
    folder = Path(sys.argv[1])
    bring_loopback_up()
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "node_ip_address": "127.0.0.1"}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    second = cluster.add_node(**node)
    cluster.wait_for_nodes()
    command = [sys.executable, "-m", "dqn_zoo.cli.bench", "-f", str(folder)]
    command += ["--ray", cluster.address]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    # Both nodes are at work, and the first two jobs have something to lose.
    while len(list(folder.glob("runs/*/*/checkpoints/step_*[0-9]"))) < 2:
        assert driver.poll() is None, "the driver ended"
        time.sleep(0.05)
    cluster.remove_node(second, allow_graceful=False)
    printed, _ = driver.communicate(timeout=400)
    interfaces = [name for _, name in socket.if_nameindex()]
    print(json.dumps({"code": driver.returncode, "printed": printed, "interfaces": interfaces}))
    cluster.shutdown()


if __name__ == "__main__":
    main()
