"""`star doctor`: what this machine offers, and which implementation every operator uses here."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from star.cli.console import print_json, print_table, say


def run(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False) -> None:
    """Show versions, devices, compiler, cache and the implementation that each operator uses, with the reason.

    Compiles the native kernels where that has not been done. The environment variable STAR_KERNELS forces
    one implementation (reference, portable, native or triton), CXX names another compiler.
    """
    facts = machine_facts()
    if as_json:
        print_json(facts)
        return
    versions = facts["versions"]
    say(", ".join(f"{name} {version}" for name, version in versions.items()))
    for device in facts["devices"]:
        say(f"{device['name']:<9} {device['description']}")
    say(f"{'threads':<9} {facts['threads']} for each process")
    say(f"{'compiler':<9} {facts['compiler'] or 'none found; install g++ or name one in CXX'}")
    say(f"{'triton':<9} {facts['triton'] or 'not installed; it comes with the extra gpu'}")
    say(f"{'products':<9} {facts['products']['description']}")
    say(f"{'cache':<9} {facts['cache']}")
    say("")
    for device, operators in (("CPU", facts["operators"]), ("GPU", facts["gpu_operators"])):
        if operators:
            print_table(
                ["operator", "implementation", "<reason"],
                [(one["operator"], one["implementation"], one["reason"]) for one in operators],
                title=f"Operators on the {device} in float32",
            )


def machine_facts() -> dict[str, Any]:
    """The JSON form of what the command shows."""
    import platform
    from importlib.metadata import version

    import torch

    from star.liv.kernels import triton
    from star.liv.kernels.matmul import probe
    from star.liv.kernels.native import compiler
    from star.machine import cache_folder

    found, products = compiler(), probe()
    return {
        "versions": {
            "star": version("star-synthesis"),
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "devices": _devices(),
        "threads": torch.get_num_threads(),
        "compiler": found and found.version,
        "triton": triton.version(),
        "products": {"onednn": products.is_float32, "description": str(products)},
        "cache": str(cache_folder()),
        "operators": _operators("cpu"),
        "gpu_operators": _operators("cuda") if torch.cuda.is_available() else [],
    }


def _operators(device: str) -> list[dict[str, str]]:
    from star.liv.kernels import choices

    return [
        {
            "operator": one.operator,
            "implementation": one.implementation.value,
            "reason": one.reason,
            "version": one.version,
        }
        for one in choices(device)
    ]


def _devices() -> list[dict[str, str]]:
    import torch

    from star.machine import usable_cores

    vectors = torch.backends.cpu.get_cpu_capability()
    devices = [{"name": "cpu", "description": f"{usable_cores()} cores, {vectors}"}]
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        memory = facts.total_memory / 2**30
        devices.append({"name": f"cuda:{index}", "description": f"{facts.name}, {memory:.0f} GiB"})
    return devices
