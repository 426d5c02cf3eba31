from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.gcs_server import GcsServer
from transforms.errors import UsageError
from transforms.variants import RESIZE_POLICIES, catalogue, class_names, find

V1_SIZES = (224, 240, 260, 300, 380, 456, 528, 600)
V1_FEATURES = (1280, 1280, 1408, 1536, 1792, 2048, 2304, 2560)
V2_SIZES = {"b0": 224, "b1": 240, "b2": 260, "b3": 300, "s": 384, "m": 480, "l": 480, "xl": 512}

OWN = """\
[[variants]]
name = "me/flowers/1"
handle = "flowers"
format = "tf2"
size = 192
fixed_size = true
resize = "squash_bilinear"
outputs = ["logits", "features"]
n_classes = [102]
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A user's file with one variant."""
    path = tmp_path / "own.toml"
    path.write_text(OWN)
    return path


class TestCatalogue:
    def test_holds_the_whole_family(self) -> None:
        families = Counter(re.sub(r"[_/](b\d|s|m|l|xl)/.*", "", variant.name) for variant in catalogue())
        assert families == {
            "google/efficientnet": 16,
            "tensorflow/efficientnet": 16,
            "google/imagenet/efficientnet_v2_imagenet1k": 28,
            "google/imagenet/efficientnet_v2_imagenet21k": 22,
            "google/imagenet/efficientnet_v2_imagenet21k_ft1k": 22,
        }

    @pytest.mark.parametrize("publisher", ["google", "tensorflow"])
    @pytest.mark.parametrize("number", range(8))
    def test_v1(self, publisher: str, number: int) -> None:
        classifier = find(f"{publisher}/efficientnet/b{number}/classification/1")
        features = find(f"{publisher}/efficientnet/b{number}/feature-vector/1")
        for variant in (classifier, features):
            assert (variant.size, variant.fixed_size) == (V1_SIZES[number], False)
            assert variant.n_features == (V1_FEATURES[number],)
            assert variant.format == ("tf1-hub" if publisher == "google" else "tf2")
            kernel = "bicubic" if publisher == "google" else "bilinear"
            assert variant.resize == f"center_crop_{kernel}"
        assert (classifier.outputs, classifier.n_classes) == (("logits", "features"), (1000,))
        assert (features.outputs, features.n_classes) == (("features",), ())

    def test_v2(self) -> None:
        for variant in catalogue():
            match = re.fullmatch(
                r"google/imagenet/efficientnet_v2_(\w+)_(b\d|s|m|l|xl)/(\w+)/([12])", variant.name
            )
            if not match:
                continue
            data, network, kind, version = match.groups()
            legacy = network.startswith("b")
            assert (variant.format, variant.size, variant.fixed_size) == ("tf2", V2_SIZES[network], True)
            assert variant.resize == ("center_crop_bicubic" if legacy else "squash_bilinear")
            assert variant.n_features == {"b2": (1408, 1280), "b3": (1536, 1280)}.get(network, (1280,))
            classes = (21843, 21841) if data == "imagenet21k" else (1000, 1001)
            assert variant.n_classes == (classes if kind == "classification" else ())
            multi_label = data == "imagenet21k" and kind == "classification"
            assert variant.activation == ("sigmoid" if multi_label else "softmax")
            assert version == "2" or (network != "xl" and (data == "imagenet1k" or not legacy))

    def test_quotes_the_published_figures(self) -> None:
        b4 = find("google/efficientnet/b4/classification/1")
        assert (b4.parameters_millions, b4.multiply_adds_billions, b4.top1_percent) == (19.47, 4.39, 82.9)
        m = find("google/imagenet/efficientnet_v2_imagenet21k_ft1k_m/classification/2")
        assert (m.parameters_millions, m.multiply_adds_billions, m.top1_percent) == (54.4, 24.6, 86.2)
        assert find("tensorflow/efficientnet/b3/classification/1").top1_percent is None
        assert (
            find("google/imagenet/efficientnet_v2_imagenet21k_xl/feature_vector/2").multiply_adds_billions
            is None
        )

    def test_every_directory_is_one_segment_and_its_own(self) -> None:
        directories = [variant.directory for variant in catalogue()]
        assert len(set(directories)) == len(directories)
        assert not any("/" in directory for directory in directories)

    def test_uses_every_policy_and_wants_zero_to_one(self) -> None:
        assert {variant.resize for variant in catalogue()} == set(RESIZE_POLICIES)
        assert {variant.input_range for variant in catalogue()} == {(0.0, 1.0)}

    def test_handles_are_on_tf_hub(self) -> None:
        assert all(variant.handle == f"https://tfhub.dev/{variant.name}" for variant in catalogue())


class TestFind:
    @pytest.mark.parametrize(
        ("name", "directory"),
        [
            ("google/efficientnet/b4/classification/1", "google-efficientnet-b4-classification-1"),
            (
                "google/imagenet/efficientnet_v2_imagenet21k_ft1k_m/feature_vector/1",
                "google-imagenet-efficientnet_v2_imagenet21k_ft1k_m-feature_vector-1",
            ),
        ],
    )
    def test_takes_both_spellings(self, name: str, directory: str) -> None:
        assert find(name) == find(directory)
        assert find(name).directory == directory

    def test_names_the_nearest(self) -> None:
        with pytest.raises(
            UsageError, match=r"'google/efficientnet/b4/clasification/1'; nearest: "
        ) as raised:
            find("google/efficientnet/b4/clasification/1")
        assert "nearest: google/efficientnet/b4/classification/1" in str(raised.value)
        assert str(raised.value).endswith("`pixelbeam variants` lists them")

    def test_names_those_that_hold_what_was_asked_for(self) -> None:
        with pytest.raises(UsageError, match=r"nearest: google/efficientnet/b0/classification/1, "):
            find("b0")

    def test_names_none_where_none_is_near(self) -> None:
        with pytest.raises(
            UsageError, match=r"^no variant is called 'zzz'; `pixelbeam variants` lists them$"
        ):
            find("zzz")


class TestOwnFile:
    def test_is_read_by_the_same_fields(self, own: Path) -> None:
        variant = find(str(own))
        assert (variant.name, variant.directory) == ("me/flowers/1", "me-flowers-1")
        assert (variant.size, variant.fixed_size, variant.n_classes) == (192, True, (102,))
        assert (variant.n_features, variant.activation, variant.top1_percent) == ((), "softmax", None)
        assert variant.input_range == (0.0, 1.0)

    def test_a_relative_handle_lies_beside_the_file(self, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert find(str(own)).handle == str(own.parent / "flowers")
        monkeypatch.chdir(own.parent)
        assert find("own.toml").handle == str(own.parent / "flowers")

    @pytest.mark.parametrize("handle", ["/models/flowers", "gs://bucket/flowers"])
    def test_an_absolute_handle_stays(self, own: Path, handle: str) -> None:
        own.write_text(OWN.replace('"flowers"', f'"{handle}"'))
        assert find(str(own)).handle == handle

    def test_a_url_is_one_with_or_without_a_slash_at_its_end(self, own: Path) -> None:
        own.write_text(OWN.replace('"flowers"', '"gs://bucket/flowers/"'))
        assert find(str(own)).handle == "gs://bucket/flowers"

    def test_an_inline_table_is_the_same(self, own: Path) -> None:
        fields = ", ".join(OWN.splitlines()[1:])
        before = find(str(own))
        own.write_text(f"variants = [{{ {fields} }}]")
        assert find(str(own)) == before

    def test_two_variants_in_a_file_are_refused(self, own: Path) -> None:
        own.write_text(OWN + OWN.replace("flowers", "trees"))
        with pytest.raises(UsageError, match="holds 2 variants; keep one in a file"):
            find(str(own))

    def test_one_name_twice_is_refused(self, own: Path) -> None:
        own.write_text(OWN + OWN.replace("me/flowers", "me-flowers"))
        with pytest.raises(UsageError, match="more than one variant is called me-flowers-1"):
            find(str(own))

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"none\.toml: cannot be read: No such file"):
            find(str(tmp_path / "none.toml"))

    @pytest.mark.parametrize("content", [b"variants = [", b"\xff\xfe"])
    def test_what_is_not_toml(self, own: Path, content: bytes) -> None:
        own.write_bytes(content)
        with pytest.raises(UsageError, match=r"own\.toml: is not TOML: "):
            find(str(own))

    @pytest.mark.parametrize(
        "content",
        ["", "variants = []", "variants = 1", 'name = "a"', OWN.replace("[[", "[").replace("]]", "]")],
    )
    def test_what_holds_no_variants(self, own: Path, content: str) -> None:
        own.write_text(content)
        with pytest.raises(UsageError, match=r"own\.toml: holds .*write one \[\[variants\]\] table"):
            find(str(own))

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("sizes = 3", "unknown field 'sizes'; nearest: size"),
            ('colour = "red"', "unknown field 'colour'; leave it out"),
            ('name = "me/../flowers"', "field name must be letters"),
            ('name = ".hidden"', "field name must be letters"),
            ("name = 3", "field name must be letters"),
            ('format = "tf3"', "field format must be one of tf1-hub, tf2, got 'tf3'"),
            ("size = 0", "field size must be a whole number of pixels, at least 1, got 0"),
            ("size = 224.0", "field size must be a whole number"),
            ("size = true", "field size must be a whole number"),
            ("fixed_size = 1", "field fixed_size must be true or false, got 1"),
            (
                'resize = "lanczos"',
                "field resize must be one of center_crop_bicubic, center_crop_bilinear, squash",
            ),
            (
                'outputs = ["probabilities"]',
                r"field outputs must be \[\"logits\"\], .*, got \['probabilities'\]",
            ),
            ("outputs = []", "field outputs must be"),
            ('handle = ""', "field handle must be a directory or a URL"),
            ("input_range = [1.0, 0.0]", "field input_range must be two numbers, the lower first"),
            ("input_range = [0.0, 0.5, 1.0]", "field input_range must be two numbers"),
            ("n_classes = 1000", "field n_classes must be a list of whole numbers of at least 1, got 1000"),
            ("n_features = [0]", "field n_features must be a list of whole numbers"),
            ('activation = "relu"', "field activation must be one of softmax, sigmoid"),
            ("top1_percent = -1", "field top1_percent must be a number above 0"),
            ('parameters_millions = "5"', "field parameters_millions must be a number above 0"),
            ("multiply_adds_billions = nan", "field multiply_adds_billions must be a number above 0"),
        ],
    )
    def test_a_wrong_field_is_one_clear_line(self, own: Path, line: str, message: str) -> None:
        field = line.split(" ", maxsplit=1)[0]
        kept = [text for text in OWN.splitlines() if not text.startswith(f"{field} ")]
        own.write_text("\n".join([*kept, line]))
        with pytest.raises(UsageError, match=message) as raised:
            find(str(own))
        name = "me/flowers/1" if field != "name" else ""
        assert str(raised.value).startswith(f"{own}: variant ")
        assert name in str(raised.value)
        assert "\n" not in str(raised.value)

    @pytest.mark.parametrize("field", ["name", "format", "size", "fixed_size", "resize", "outputs"])
    def test_a_missing_field_is_one_clear_line(self, own: Path, field: str) -> None:
        own.write_text("\n".join(text for text in OWN.splitlines() if not text.startswith(f"{field} ")))
        with pytest.raises(UsageError, match=f"variant .* field {field} is missing; it must be "):
            find(str(own))

    def test_a_handle_may_be_missing(self, own: Path) -> None:
        own.write_text(OWN.replace('handle = "flowers"\n', ""))
        assert find(str(own)).handle == "https://tfhub.dev/me/flowers/1"


class TestClassNames:
    @pytest.fixture
    def names(self, tmp_path: Path) -> Path:
        path = tmp_path / "names.txt"
        path.write_text("tench\ngoldfish\ncrane\ncrane\n")
        return path

    def test_one_line_a_class(self, names: Path) -> None:
        assert class_names(str(names), 4) == ["tench", "goldfish", "crane", "crane"]

    def test_a_background_class_is_left_out(self, names: Path) -> None:
        assert class_names(str(names), 3) == ["goldfish", "crane", "crane"]

    @pytest.mark.parametrize("n_classes", [2, 5])
    def test_another_number_of_lines(self, names: Path, n_classes: int) -> None:
        with pytest.raises(
            UsageError, match=rf"names\.txt: has 4 class names, the module gives {n_classes} classes"
        ):
            class_names(str(names), n_classes)

    def test_windows_line_ends_and_byte_order_mark(self, names: Path) -> None:
        names.write_bytes("\ufefftench\r\naï\r\n".encode())
        assert class_names(str(names), 2) == ["tench", "aï"]

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="class names cannot be read: No such file"):
            class_names(str(tmp_path / "names.txt"), 2)

    def test_in_a_store(self, gcs: GcsServer) -> None:
        gcs.put("in", "names.txt", b"tench\ngoldfish\n")
        assert class_names("gs://in/names.txt", 2) == ["tench", "goldfish"]
        with pytest.raises(
            UsageError,
            match=r"^gs://in/none: class names cannot be read: No such file; correct --class-names$",
        ):
            class_names("gs://in/none", 2)

    def test_what_is_not_text(self, names: Path) -> None:
        names.write_bytes(b"\xff\xfe\xfa\n")
        with pytest.raises(UsageError, match="class names are not UTF-8 text"):
            class_names(str(names), 1)


def test_neither_tensorflow_nor_a_file_is_touched_on_import() -> None:
    program = (
        "import sys, transforms.variants as v;"
        "assert 'tensorflow' not in sys.modules;"
        "assert v.catalogue.cache_info().currsize == 0"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
