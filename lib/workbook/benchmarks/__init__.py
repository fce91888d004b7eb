"""What things cost: times, launches and bytes, and the coders of others."""

from lib.workbook.benchmarks import (
    coders,
    every_method,
    measure,
    projection_costs,
    step_costs,
    tables,
)
from lib.workbook.benchmarks.tables import (
    FULL,
    OF_CPU,
    committed,
    committed_counted,
    file_name,
    folder,
    gpu_said,
    machine,
    missing_on_gpu,
)
