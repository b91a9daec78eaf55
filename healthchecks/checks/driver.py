"""Check 1: a GPU is visible, its driver supports the CUDA version that torch was built for, and it computes in bf16."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from common.i18n import N_, _
from healthchecks.context import Context, Failure, Outcome
from healthchecks.nvml import Driver, Gpu, NvmlProblem, read

# The oldest Linux driver for each CUDA major version (NVIDIA CUDA Compatibility, "minor version compatibility").
OLDEST_DRIVER = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}
BF16_CAPABILITY = (8, 0)  # Ampere: the first with bf16 tensor cores
TOOLKIT = "https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/install-guide.html"
WITH_GPU = N_("start it with a GPU: docker run --gpus all ...")


def _no_such_driver() -> str:
    return _(
        'if Docker then answers `could not select device driver "" with capabilities: [[gpu]]`, '
        "install the NVIDIA Container Toolkit on the host ({toolkit})"
    ).format(toolkit=TOOLKIT)


def check(context: Context) -> Outcome:
    """Outcome with GPU and driver, or a skip on a machine meant to run on the CPU. Raises Failure with a cause."""
    if context.device == "cpu":
        return Outcome(_("runs on the CPU, as MIRROR_DEVICE=cpu asks"), "skip", "cpu")
    try:
        return _gpu_outcome(context)
    except Failure as failure:
        # A test model is made for machines without a GPU. A machine whose GPU has a fault is a different case.
        if failure.code in NO_GPU_CODES and context.device == "auto" and context.kind.is_for_tests:
            return Outcome(
                _("runs on the CPU with {title}: {cause}").format(title=_(context.kind.title), cause=failure.cause),
                "skip",
                "cpu",
            )
        raise


NO_GPU_CODES = ("no-gpu", "no-driver", "no-gpus-flag", "hidden")


def _gpu_outcome(context: Context) -> Outcome:
    torch_cuda = torch_cuda_version()
    try:
        driver = read(context.nvml())
    except ImportError as error:
        raise Failure(
            "no-nvml-bindings",
            _("the Python package nvidia-ml-py cannot be imported ({reason})").format(reason=error),
            _("build the image again; do not mount over /opt/venv"),
        ) from error
    except NvmlProblem as problem:
        raise explain(problem, context.system_root) from problem
    if not driver.gpus:
        raise Failure(
            "no-gpu", _("driver {version} shows no GPU to this container").format(version=driver.version), WITH_GPU
        )
    gpu = chosen(driver, context.cuda_visible_devices)
    _require_driver(torch_cuda, driver)
    have = _dotted(gpu.capability)
    if gpu.capability < BF16_CAPABILITY:
        raise Failure(
            "gpu-too-old",
            _("{name} has compute capability {have}; training in bf16 needs 8.0 (Ampere, 2020) or newer").format(
                name=gpu.name, have=have
            ),
            _(
                "use a newer GPU (RTX 30xx, A10, A100, L4, RTX 40xx, H100, ...); where there are several, "
                "choose one with docker run --gpus device=N"
            ),
        )
    context.gpu = gpu
    return Outcome(
        _("{name}, driver {version}, CUDA {dotted} for torch's {torch_cuda}, capability {have}").format(
            name=gpu.name, version=driver.version, dotted=_dotted(driver.cuda), torch_cuda=torch_cuda, have=have
        )
    )


def torch_cuda_version() -> str | None:
    """The CUDA version that torch was built for ("12.8"), None for a CPU build. Reads torch/version.py, no import."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise Failure("no-torch", _("torch is not installed"), _("build the image again; do not mount over /opt/venv"))
    source = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    found = re.search(r"^cuda\b[^=\n]*=\s*'(\d+\.\d+)'", source, re.MULTILINE)
    return found.group(1) if found else None


def _require_driver(torch_cuda: str | None, driver: Driver) -> None:
    if torch_cuda is None:
        raise Failure(
            "torch-without-cuda",
            _("a GPU is there, but this image has a torch for the CPU only"),
            _("use the image built without TORCH_SPEC; MIRROR_DEVICE=cpu runs this one on the CPU"),
        )
    major = int(torch_cuda.split(".")[0])
    if driver.cuda[0] < major:
        needed = OLDEST_DRIVER.get(major, _("one for CUDA {major}").format(major=major))
        raise Failure(
            "driver-too-old",
            _(
                "the host's NVIDIA driver {version} runs CUDA up to {dotted}; torch here is built for CUDA "
                "{torch_cuda}, which needs driver {needed} or newer"
            ).format(version=driver.version, dotted=_dotted(driver.cuda), torch_cuda=torch_cuda, needed=needed),
            _("update the driver on the host to {needed} or newer and restart the host").format(
                needed=needed.split(".")[0]
            ),
        )


def chosen(driver: Driver, visible: str | None) -> Gpu:
    """The GPU that becomes CUDA device 0 under CUDA_VISIBLE_DEVICES (indices or UUIDs). Failure if it hides all."""
    if visible is None:
        return driver.gpus[0]
    first = visible.split(",")[0].strip()
    if first.isdigit() and int(first) < len(driver.gpus):
        return driver.gpus[int(first)]
    for gpu in driver.gpus:
        if first and gpu.uuid.startswith(first):
            return gpu
    if first.startswith("MIG-"):
        return driver.gpus[0]
    raise Failure(
        "hidden",
        _("CUDA_VISIBLE_DEVICES={visible!r} hides every GPU ({count} there)").format(
            visible=visible, count=len(driver.gpus)
        ),
        _("unset CUDA_VISIBLE_DEVICES, or set it to 0"),
    )


def explain(problem: NvmlProblem, root: Path) -> Failure:
    """Why NVML does not respond, judged by what the kernel shows of the host; `root` is / or a test's directory."""
    if problem.kind == "lost":
        return Failure(
            "gpu-lost",
            _("the driver has lost the GPU ({problem}): a fault of hardware, power or PCIe").format(problem=problem),
            _("restart the host; if it comes back, `dmesg | grep Xid` there says more: card, riser or power supply"),
        )
    if problem.kind == "mismatch":
        return Failure(
            "driver-mismatch",
            _(
                "the driver's library and its kernel module are of different versions ({problem}): updated while it ran"
            ).format(problem=problem),
            _("restart the host"),
        )
    wsl = (root / "dev/dxg").exists()
    module = (root / "proc/driver/nvidia/version").exists() or (root / "sys/module/nvidia/version").exists()
    device = (root / "dev/nvidiactl").exists()
    if problem.kind == "library-missing" and (device or wsl):
        return Failure(
            "no-toolkit",
            _(
                "the GPU's device is here but the driver's library libnvidia-ml.so.1 is not: the device was "
                "passed by hand, or NVIDIA_DRIVER_CAPABILITIES lacks utility"
            ),
            _(
                "install the NVIDIA Container Toolkit on the host ({toolkit}), then docker run --gpus all; "
                "set NVIDIA_DRIVER_CAPABILITIES=compute,utility"
            ).format(toolkit=TOOLKIT),
        )
    if device or problem.kind == "no-permission":
        return Failure(
            "no-access",
            _(
                "the GPU's device is here, but the driver refuses it ({problem}): often `systemctl "
                "daemon-reload` on the host took it away from a running container"
            ).format(problem=problem),
            _("restart the container; lasting cure: https://github.com/NVIDIA/nvidia-container-toolkit/issues/48"),
        )
    if module:
        return Failure(
            "no-gpus-flag",
            _("the host has an NVIDIA driver, but this container was started without a GPU"),
            _("{with_gpu} (compose: the service's deploy.resources.reservations.devices); {no_such_driver}").format(
                with_gpu=_(WITH_GPU), no_such_driver=_no_such_driver()
            ),
        )
    if _nvidia_card(root):
        return Failure(
            "no-driver",
            _("the host has an NVIDIA card and no loaded NVIDIA driver"),
            _(
                "install driver {oldest_driver} or newer on the host, restart it, then {with_gpu}; {no_such_driver}"
            ).format(
                oldest_driver=OLDEST_DRIVER[12].split(".")[0],
                with_gpu=_(WITH_GPU),
                no_such_driver=_no_such_driver(),
            ),
        )
    return Failure(
        "no-gpu",
        _("this machine shows no NVIDIA GPU"),
        _(
            "use a machine with an NVIDIA GPU (24 GB of memory) and {with_gpu}; {no_such_driver}. To look "
            "around without one, use the stand-in image (make build MODEL_SOURCE=standin)"
        ).format(with_gpu=_(WITH_GPU), no_such_driver=_no_such_driver()),
    )


def _nvidia_card(root: Path) -> bool:
    """Whether the PCI bus has an NVIDIA (vendor 10de) display or 3D controller (class 03)."""
    for vendor in root.glob("sys/bus/pci/devices/*/vendor"):
        try:
            if vendor.read_text().strip() == "0x10de" and (vendor.parent / "class").read_text().startswith("0x03"):
                return True
        except OSError:
            continue
    return False


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
