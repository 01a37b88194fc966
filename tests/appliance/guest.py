"""A virtual machine with little memory, and so with cgroups of its own kernel: qemu, a Debian kernel, a tiny initrd.

The processor is emulated, so it is slow: nothing in it tells of speed. What the guest runs of ours, beside Hearth, is
AGENT, by which commands get in.
"""

from __future__ import annotations

import json
import lzma
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.appliance.machine import Machine
from tests.appliance.root import MACHINE, PLAIN, TOOLS, TRIXIE, call, kept, with_hearth
from tests.e2e.daemon import PATIENCE_S, eventually, free_port

QEMU = f"qemu-system-{MACHINE}"
GUEST_TOOLS = (*TOOLS, QEMU, "mke2fs", "cpio")
KERNEL_PACKAGES = ("linux-image-cloud-amd64", "busybox-static")
MODULES = (
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "ext4",
)  # those that the kernel has built in are no files
PROCESSOR = "Nehalem"  # without AVX, which QEMU 7.2 (Debian 12) emulates with errors: numpy rounds otherwise in it
MEMORY_MIB = 1024
DISK_MIB = 3072
AGENT_PORT = 2024
ADDRESS = "10.0.2.15"  # of the guest: qemu's user network
COMMAND_S = 300.0
BOOT_S = 300.0
MAX_BOOTS, PANIC = 3, "Kernel panic"

AGENT = """\
import json, socketserver, subprocess, sys

class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        asked = json.loads(self.rfile.readline())
        done = subprocess.run(asked["command"], input=asked["text"], env=asked["environment"], capture_output=True,
                              text=True, errors="replace")
        answer = {"returncode": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
        self.wfile.write(json.dumps(answer).encode())

class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True

Server(("", int(sys.argv[1])), Handler).serve_forever()
"""

AGENT_UNIT = f"""\
[Unit]
DefaultDependencies=no
After=sysinit.target
[Service]
ExecStartPre=/usr/bin/ip address add {ADDRESS}/24 dev eth0
ExecStartPre=/usr/bin/ip link set eth0 up
ExecStart=/usr/bin/python3 /usr/local/lib/agent.py {AGENT_PORT}
OOMScoreAdjust=-1000
[Install]
WantedBy=multi-user.target
"""

INIT = """\
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs none /dev
for module in /modules/*; do /bin/busybox insmod $module; done
/bin/busybox mount -t ext4 /dev/vda /root || exec /bin/busybox sh
/bin/busybox umount /dev
exec /bin/busybox switch_root /root /sbin/init
"""


def why_not() -> str:
    """Why no guest can be made on this machine, or ""."""
    from tests.appliance import root

    if MACHINE != "x86_64":
        return f"the guest's kernel is for x86_64, this is {MACHINE}"
    return root.why_not(GUEST_TOOLS)


def kernel() -> Path:
    """A directory with `vmlinuz` and `initrd`; made by the first who asks."""

    def make(directory: Path) -> None:
        tree = directory / "tree"
        packages = f"--include={','.join(KERNEL_PACKAGES)}"
        call("mmdebstrap", "--variant=extract", packages, TRIXIE.name, tree)
        (found,) = (tree / "boot").glob("vmlinuz-*")
        shutil.copy2(found, directory / "vmlinuz")
        _make_initrd(tree, found.name.removeprefix("vmlinuz-"), directory)
        shutil.rmtree(tree)

    return kept("kernel-2", make)


def _make_initrd(tree: Path, release: str, directory: Path) -> None:
    initrd = directory / "tiny"
    for name in ("bin", "dev", "modules", "root"):
        (initrd / name).mkdir(parents=True)
    (busybox,) = (path for place in ("bin", "usr/bin") if (path := tree / place / "busybox").is_file())
    shutil.copy2(busybox, initrd / "bin/busybox")
    for number, (name, data) in enumerate(_with_needed(tree / "usr/lib/modules" / release)):
        (initrd / "modules" / f"{number:02}-{name}.ko").write_bytes(data)
    (initrd / "init").write_text(INIT)
    (initrd / "init").chmod(0o755)
    packed = 'cd "$1" && find . | cpio --quiet -o -H newc >"$2"'
    call("sh", "-c", packed, "initrd", initrd, directory / "initrd")
    shutil.rmtree(initrd)


def _with_needed(modules: Path) -> list[tuple[str, bytes]]:
    """MODULES and what they need, each behind what it needs itself."""
    files = {path.name.partition(".")[0].replace("-", "_"): path for path in modules.rglob("*.ko*")}
    found: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name in files and name not in found:
            data = files[name].read_bytes()
            data = lzma.decompress(data) if files[name].suffix == ".xz" else data
            needed = re.search(rb"\0depends=([^\0]*)\0", data)  # modinfo(8)
            for other in needed[1].decode().split(",") if needed else ():
                add(other.replace("-", "_"))
            found[name] = data

    for name in MODULES:
        add(name)
    return list(found.items())


def disk(directory: Path) -> Path:
    """The image of a disk with Debian, Hearth and AGENT."""
    root = with_hearth(directory / "root", "--listen", "0.0.0.0")
    root.write("/usr/local/lib/agent.py", AGENT)
    root.write("/etc/systemd/system/agent.service", AGENT_UNIT)
    wants = root.changes / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    (wants / "agent.service").symlink_to("/etc/systemd/system/agent.service")
    image = directory / "disk"
    call(*root.wrap("mke2fs", "-q", "-t", "ext4", "-d", root.tree, image, f"{DISK_MIB}M"))
    return image


class Guest(Machine):
    """A virtual machine that boots from `image`."""

    def __init__(self, image: Path, log: Path) -> None:
        self._log = log
        self._http_port, self._agent_port = free_port(), free_port()
        start = kernel()
        forward = [f"hostfwd=tcp:127.0.0.1:{self._http_port}-:11434"]
        forward += [f"hostfwd=tcp:127.0.0.1:{self._agent_port}-:{AGENT_PORT}"]
        command = [QEMU, "-accel", "tcg,thread=multi", "-cpu", PROCESSOR, "-smp", "2", "-m", str(MEMORY_MIB)]
        command += ["-kernel", f"{start}/vmlinuz", "-initrd", f"{start}/initrd"]
        command += ["-append", "console=ttyS0 root=/dev/vda rw quiet net.ifnames=0 psi=1 systemd.getty_auto=0 panic=-1"]
        command += ["-drive", f"file={image},if=virtio,format=raw,cache=unsafe"]
        command += ["-netdev", f"user,id=net,restrict=on,{','.join(forward)}", "-device", "virtio-net-pci,netdev=net"]
        command += ["-nographic", "-monitor", "none", "-no-reboot", "-serial", f"file:{log}"]
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            stdin=subprocess.DEVNULL,
            env={**os.environ, **PLAIN},
        )

    def wait_until_up(self) -> None:
        """Returns when the boot is over and all services of it have been started."""
        eventually(self._is_up, "the guest is up", BOOT_S)

    def _is_up(self) -> bool:
        try:
            return self.is_up()
        except (OSError, ValueError):
            return False

    def try_run(self, *command: str, text: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        """As Machine has it."""
        assert self._process.poll() is None, self._log.read_text(errors="replace")[-4000:]
        asked = {"command": command, "text": text, "environment": {**PLAIN, **environment}}
        with socket.create_connection(("127.0.0.1", self._agent_port), COMMAND_S) as connection:
            connection.sendall(json.dumps(asked).encode() + b"\n")
            with connection.makefile("rb") as answer:
                return subprocess.CompletedProcess(command, **json.loads(answer.read()))

    def connected(self, timeout_s: float) -> socket.socket:
        """As Machine has it."""
        return socket.create_connection(("127.0.0.1", self._http_port), max(timeout_s, COMMAND_S))

    def close(self) -> None:
        """Pull the plug."""
        self._process.kill()
        self._process.wait(PATIENCE_S)


@contextmanager
def running_guest(image: Path, log: Path) -> Iterator[Guest]:
    """A guest that is up; it is off after the block.

    QEMU 7.2 now and then emulates code that the kernel is just patching, and the kernel panics in the first seconds:
    then it is switched on again.
    """
    for boot in range(MAX_BOOTS):
        guest = Guest(image, log)
        try:
            try:
                guest.wait_until_up()
            except AssertionError:
                if boot + 1 < MAX_BOOTS and PANIC in log.read_text(errors="replace"):
                    continue
                raise
            yield guest
            return
        finally:
            guest.close()
