"""`simsiam bench kernels`: how long each operation of kernels/ takes, next to its reference and to other libraries."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from rich.console import Console

from simsiam.train.config import DeviceName
from simsiam.train.terminal.arguments import parse
from simsiam.train.terminal.exit_codes import DONE, FAILED
from simsiam.train.terminal.output_file import check_output

Operation = Literal["negative_cosine", "augment_views", "batch_norm_relu"]


@dataclass(frozen=True)
class BenchKernelsOptions:
    """Check each operation, then time it, next to its reference, torch.compile of that, and other libraries installed.

    A way whose results are wrong gets no time, and the exit code is 1. Inputs are smaller on a CPU.
    """

    ops: tuple[Operation, ...] = get_args(Operation)
    """Operations to measure."""
    skip: tuple[str, ...] = ()
    """Ways to skip, by the names in the table, such as compiled, which takes a while to compile."""
    device: DeviceName = "auto"
    """Where to run; `auto` takes the GPU if there is one."""
    seconds: float = 1.0
    """How long each way is measured, up to 50 runs, after one that is not counted."""
    json: Path | None = None
    """Also write environment and results to this file."""


def run(arguments: Sequence[str], prog: str) -> int:
    """Check and measure the operations, print the results and write them where asked."""
    options = parse(BenchKernelsOptions, arguments, prog)
    from simsiam.train.bench.kernel_cases import OPERATIONS
    from simsiam.train.bench.kernels import measure, measure_copy
    from simsiam.train.bench.report import write_results
    from simsiam.train.bench.windows import check_positive
    from simsiam.train.precision import open_device

    check_positive(seconds=options.seconds)
    if options.json:
        check_output(options.json, ".json")
    device, console = open_device(options.device), Console()
    copy = measure_copy(device)
    console.print(f"{device.type}: a copy in memory moves {copy / 1e9:,.0f} GB/s", highlight=False)
    results = []
    for operation in dict.fromkeys(options.ops):
        for case in OPERATIONS[operation](device):
            console.print(f"\n{case.operation}, {case.inputs}: {case.bytes_moved / 1e6:,.1f} MB", highlight=False)
            case = case._replace(ways=[way for way in case.ways if way.name not in options.skip])
            for result in measure(case, device, copy, options.seconds):
                results.append(result | {"copy_bytes_per_second": copy})
                console.print(_line(result), highlight=False, markup=False, soft_wrap=True)
    if options.json:
        write_results(results, options.json)
    # torch.compile may lack its compiler, and another library may change: ours and its definition may not fail.
    failed = any("failed" in result and result["way"] in ("simsiam", "reference") for result in results)
    return FAILED if failed else DONE


def _line(result: dict[str, Any]) -> str:
    if "failed" in result:
        return f"  {result['way']:<12} failed: {result['failed']}"
    low, high = result["milliseconds_20_80"]
    return (
        f"  {result['way']:<12} {result['milliseconds']:>10,.3f} ms  ({low:,.3f} – {high:,.3f})"
        f"  {result['gigabytes_per_second']:>8,.1f} GB/s  {result['percent_of_copy']:>5.1f} % of a copy"
        + ("  not checked: it draws its own random numbers" if result["error"] is None else "")
    )
