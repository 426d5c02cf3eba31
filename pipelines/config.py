"""What a run was asked to do, checked once, before anything is read or written."""

from __future__ import annotations

from dataclasses import dataclass

from transforms.errors import UsageError

PRECISIONS = ("exact", "fast")
RESERVED_COLUMNS = {
    *("uri", "size", "version", "sha256", "width", "height", "orientation", "fingerprint"),
    *("logits", "top_classes", "features"),
}
"""Those of every row."""


def check_at_least_one(option: str, value: int | None) -> None:
    """Raise UsageError where a count is given and is not a count."""
    if value is not None and value < 1:
        raise UsageError(f"{option} must be at least 1, got {value}")


@dataclass(frozen=True)
class RunConfig:
    """The options of `pixelbeam run`.

    Attributes:
        inputs: Directories, globs, manifests and files.
        output: The output directory.
        variants: Names of variants, or TOML files.
        model_dir: Where modules are kept.
        precision: `exact`, or `fast` (16 bits where the device can, uint8 pixels).
        image_column: Feature or column of a container that holds the images; None for the usual one.
        keep: Columns to carry along from the sources.
        images_per_unit: Images in new units; None for about five minutes of work.
        batch_size: Images a forward pass; None for what suits the device and the modules.
        class_names: File with a class name a line, or None.
        max_failure_ratio: Which part of the images may fail, from 0 to 1.
        retry_failures: Try once more what failed in earlier runs.
        replace: Do anew what the output holds of these variants with other settings.
        accelerator: The GPU of Dataflow's workers, as Google calls it; None for none.
        mps: Let several processes share each of these GPUs.
        require_gpu: Refuse to run where TensorFlow sees no GPU.
        limit: Take only the first images listed, for a trial; None for all.
        beam_options: Passed to Beam as they are.

    Raises:
        UsageError: A value cannot be meant.
    """

    inputs: tuple[str, ...]
    output: str
    variants: tuple[str, ...]
    model_dir: str
    precision: str = "exact"
    image_column: str | None = None
    keep: tuple[str, ...] = ()
    images_per_unit: int | None = None
    batch_size: int | None = None
    class_names: str | None = None
    max_failure_ratio: float = 0.1
    retry_failures: bool = False
    replace: bool = False
    accelerator: str | None = None
    mps: bool = False
    require_gpu: bool = False
    limit: int | None = None
    beam_options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for option, value in (
            ("--images-per-unit", self.images_per_unit),
            ("--batch-size", self.batch_size),
            ("--limit", self.limit),
        ):
            check_at_least_one(option, value)
        if not 0 <= self.max_failure_ratio <= 1:
            raise UsageError(f"--max-failure-ratio must be from 0 to 1, got {self.max_failure_ratio}")
        for name in self.keep:
            if name in RESERVED_COLUMNS or self.keep.count(name) > 1:
                raise UsageError(f"--keep {name}: rows have such a column already; rename it in the source")
        if self.precision not in PRECISIONS:
            raise UsageError(f"--precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")

    @property
    def wants_gpu(self) -> bool:
        """Whether a GPU was asked for, by our option or by Dataflow's."""
        return bool(self.require_gpu or self.accelerator) or any(
            "worker_accelerator" in option for option in self.beam_options
        )
