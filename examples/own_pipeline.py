"""The pipeline inside a Beam pipeline of one's own: what it commits goes on as a collection of receipts.

    pip install pixelbeam
    python examples/own_pipeline.py photographs dataset google/efficientnet/b4/classification/1 --model-dir models

Does what `pixelbeam run` does, and counts the rows of each variant in a further step of the pipeline, which prints
them. Arguments that are not known here are Beam's, such as `--runner`; of a Dataflow job it takes all that
`pixelbeam run` fills in.
"""

from __future__ import annotations

import argparse
import os
import sys

try:
    from pipelines.quiet import start_tensorflow
except ImportError as error:
    sys.exit(f"{error}: pip install pixelbeam")

# Before anything else imports TensorFlow, for this drops what it writes as it starts.
start_tensorflow()

import apache_beam as beam

from pipelines.config import RunConfig
from pipelines.launch import launch_and_show, new_pipeline
from pipelines.run import begin, build, finish
from transforms.errors import RunError, UsageError


def main() -> int:
    """Read the arguments, run the pipeline; returns the exit code of a run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", help="a directory, a glob, a manifest or a container")
    parser.add_argument("output", help="the output directory")
    parser.add_argument("variant", nargs="+", help="names, or TOML files of your own modules")
    parser.add_argument("--model-dir", required=True, help="where modules are kept")
    options, beam_options = parser.parse_known_args()
    config = RunConfig(
        inputs=(options.input,),
        output=os.path.abspath(options.output),
        variants=tuple(options.variant),
        model_dir=os.path.abspath(options.model_dir),
        beam_options=tuple(beam_options),
    )

    begun = begin(config)
    pipeline = new_pipeline(config)
    _ = (
        build(pipeline, begun)
        | "Rows" >> beam.Map(lambda receipt: (receipt.variant, receipt.rows))
        | "Sum" >> beam.CombinePerKey(sum)
        | "Print" >> beam.MapTuple(lambda variant, rows: print(f"{variant}: {rows:,} rows committed"))
    )
    launch_and_show(pipeline, config, begun.run_id, begun.work.n_images)
    return finish(begun)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, RunError, UsageError) as error:
        sys.exit(str(error))
