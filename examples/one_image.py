"""What does a module say of one image? With `transforms` alone, without Beam, as in a REPL.

    pip install pixelbeam
    python examples/one_image.py photographs/coffee/00.jpg google/efficientnet/b4/classification/1 --model-dir models

The module has to be in the model directory: `pixelbeam pull --variant NAME --model-dir models`. Prints the best five
classes with their probabilities, and the length of the feature vector; the scores are those of the image's row.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

try:
    from pipelines.quiet import start_tensorflow
except ImportError as error:
    sys.exit(f"{error}: pip install pixelbeam")

# Before anything else imports TensorFlow, for this drops what it writes as it starts.
start_tensorflow()

import numpy as np

from transforms import images, modules, variants
from transforms.errors import BadImage, RunError, UsageError
from transforms.resize import resize
from transforms.tables import probabilities


def main() -> None:
    """Read the arguments, score the image, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image", type=Path, help="a file of any format that a run takes")
    parser.add_argument("variant", help="a name from `pixelbeam variants`, or your own module's TOML file")
    parser.add_argument("--model-dir", required=True, help="where `pixelbeam pull` keeps modules")
    options = parser.parse_args()

    variant = variants.find(options.variant)
    scores = score(options.image, variant, os.path.join(options.model_dir, variant.directory))
    if "logits" in scores:
        shares = probabilities(scores["logits"], variant.activation)[0]
        for index in np.argsort(-shares)[:5]:
            print(f"class {index}: {shares[index]:.6f}")
    if "features" in scores:
        print(f"{scores['features'].size:,} features, length {np.linalg.norm(scores['features']):.6f}")


def score(path: Path, variant: variants.Variant, module_directory: str) -> dict[str, Any]:
    """float32 `logits` `[1, n_classes]` and `features` `[1, n_features]` of one image, those that the module has."""
    # Lazily: a JPEG's centre is decoded by itself, as the publishers did it.
    image = images.decode(path.read_bytes(), lazily=True)
    pixels = resize(image, variant.size, variant.resize)
    module = modules.load(module_directory, variant)
    return {name: values.numpy() for name, values in module.function(pixels[np.newaxis]).items()}


if __name__ == "__main__":
    try:
        main()
    except (BadImage, OSError, RunError, UsageError) as error:
        sys.exit(str(error))
