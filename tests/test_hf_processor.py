"""The bridge's processor: the official tensors, its forms of call, and its refusals."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from reference.images import make_image
from test_image import GOLDENS
from test_model import CASES, NAMES
from transformers import AutoProcessor, pipeline
from transformers.models.auto.image_processing_auto import AutoImageProcessor

import phisight.hf
from phisight.errors import ImageError, OptionError, PromptError
from phisight.hf import Phi3VImageProcessor, Phi3VProcessor

EXAMPLES = Path(__file__).parents[1] / "examples"
SIGN, BOOK = EXAMPLES / "sign.png", EXAMPLES / "book.png"
ONE = "<|user|>\n<|image_1|>\nOCR<|end|>\n<|assistant|>\n"
TWO = "<|user|>\n<|image_1|>\n<|image_2|>\nCompare.<|end|>\n<|assistant|>\n"
NONE = "<|user|>\nHello<|end|>\n<|assistant|>\n"


def sha(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


@pytest.fixture(scope="module")
def processor(nano_folder: Path) -> Phi3VProcessor:
    return AutoProcessor.from_pretrained(nano_folder)


# The official tensors.


@pytest.mark.parametrize("rows", ["sizes", "modes"])
def test_padded_pixels_are_the_official_ones(rows: str) -> None:
    """Every tenth size and every mode; test_image holds all sizes on the crops themselves."""
    for row in GOLDENS[rows][:: 10 if rows == "sizes" else 1]:
        image = make_image(row["w"], row["h"], row["seed"], row["kind"], row["mode"])
        of_clip = Phi3VImageProcessor(num_crops=row["num_crops"])
        out = of_clip(image, return_tensors="np")
        assert out["pixel_values"].shape == (1, row["num_crops"] + 1, 3, 336, 336)
        assert sha(out["pixel_values"][0])[: len(row["sha256"])] == row["sha256"], row
        assert out["image_sizes"].tolist() == [row["image_size"]]
        assert out["num_img_tokens"] == [row["num_img_tokens"]]
        assert of_clip.calc_num_image_tokens(image) == [row["num_img_tokens"]]


def test_every_model_case_gets_the_official_inputs(official: Path) -> None:
    for name in NAMES:
        case = json.loads((CASES / f"{name}.json").read_text())
        keys = ("w", "h", "seed", "kind", "mode")
        images = [make_image(**{key: image[key] for key in keys}) for image in case["images"]]
        of_case = AutoProcessor.from_pretrained(official, num_crops=case["num_crops"])
        inputs = of_case(case["prompt"], images or None, return_tensors="pt", padding=True)
        with np.load(CASES / f"{name}.npz") as arrays:
            assert np.array_equal(inputs["input_ids"], arrays["input_ids"]), name
            assert np.array_equal(inputs["attention_mask"], arrays["attention_mask"]), name
        if images:
            assert sha(inputs["pixel_values"].numpy()) == case["pixel_values"]["sha256"], name
            assert inputs["image_sizes"].tolist() == case["image_sizes"], name
        else:
            assert set(inputs) == {"input_ids", "attention_mask"}


def test_the_class_default_is_one_crop_and_the_checkpoint_s_its_own(official: Path) -> None:
    assert Phi3VImageProcessor().num_crops == 1
    assert AutoImageProcessor.from_pretrained(official).num_crops == 16


# Forms of call.


def test_pictures_come_as_one_as_a_list_or_by_row(processor: Phi3VProcessor) -> None:
    with Image.open(SIGN) as picture:
        expected = processor(ONE, picture, return_tensors="pt")
    for images in (str(SIGN), SIGN, SIGN.read_bytes(), [SIGN], (SIGN,), [[SIGN]]):
        inputs = processor(text=ONE, images=images)
        assert inputs.keys() == expected.keys()
        assert all(torch.equal(inputs[key], expected[key]) for key in expected), images
    assert torch.equal(processor([ONE], [SIGN])["input_ids"], expected["input_ids"])


def test_a_flat_list_is_dealt_out_by_tags(processor: Phi3VProcessor) -> None:
    texts = [TWO, NONE, ONE]
    by_row = processor(texts, [[SIGN, BOOK], [], [SIGN]], padding=True)
    for images in ([SIGN, BOOK, SIGN], [[SIGN, BOOK], None, SIGN]):
        flat = processor(texts, images, padding=True)
        assert all(torch.equal(flat[key], by_row[key]) for key in by_row)
    assert len(by_row["pixel_values"]) == 3
    assert by_row["input_ids"].amin(1).tolist() == [-2, 10, -1]


def test_padding_is_on_the_left_unless_told_otherwise(processor: Phi3VProcessor) -> None:
    pad = processor.tokenizer.pad_token_id
    left = processor([NONE, ONE], [[], [SIGN]], padding=True)
    assert left["input_ids"][0, 0] == pad and left["attention_mask"][0].tolist()[0] == 0
    assert left["attention_mask"][:, -1].tolist() == [1, 1]
    right = processor([NONE, ONE], [[], [SIGN]], padding=True, padding_side="right")
    assert right["input_ids"][0, -1] == pad and right["attention_mask"][0, -1] == 0
    text_only = processor([NONE, NONE + "x"], padding=True)
    assert text_only["input_ids"][0, 0] == pad
    longer = processor([ONE], [SIGN], padding="max_length", max_length=1000)
    assert longer["input_ids"].shape == (1, 1000)


def test_other_kinds_of_tensors(processor: Phi3VProcessor) -> None:
    lists = processor([NONE, ONE], [[], [SIGN]], return_tensors=None)
    assert [type(row) for row in lists["input_ids"]] == [list, list]
    arrays = processor(ONE, SIGN, return_tensors="np")
    assert all(isinstance(arrays[key], np.ndarray) for key in arrays)
    cast = processor(ONE, SIGN).to("cpu", torch.bfloat16)
    assert cast["pixel_values"].dtype == torch.bfloat16
    assert cast["input_ids"].dtype == torch.int64


def test_truncation_is_for_text_only(processor: Phi3VProcessor) -> None:
    cut = processor(NONE, truncation=True, max_length=4)
    assert cut["input_ids"].shape == (1, 4)
    with pytest.raises(OptionError, match=r"truncation to 100 would cut a prompt of \d+ tokens"):
        processor(ONE, SIGN, truncation=True, max_length=100)
    assert processor(ONE, SIGN, truncation=True, max_length=4000)["input_ids"].shape[1] < 1000


def test_num_crops_is_the_caller_s(nano_folder: Path) -> None:
    few = AutoProcessor.from_pretrained(nano_folder, trust_remote_code=True, num_crops=2)
    assert few(ONE, BOOK)["pixel_values"].shape[1] == 3


@pytest.mark.parametrize("value", [0, -1, "4", 4.0, True, 10**6])
def test_num_crops_is_a_whole_number_within_limits(nano_folder: Path, value: Any) -> None:
    few = AutoProcessor.from_pretrained(nano_folder, num_crops=value)
    with pytest.raises(OptionError, match="num_crops"):
        few(ONE, SIGN)


def test_ids_with_image_places_can_be_read(processor: Phi3VProcessor) -> None:
    ids = processor(ONE, SIGN)["input_ids"]
    assert processor.decode(ids[0], skip_special_tokens=True).endswith("\nOCR\n\n")
    assert processor.batch_decode(ids.tolist()) == [processor.decode(ids[0].numpy())]


# Conversations.


def chat(source: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [source, {"type": "text", "text": "OCR"}]},
        {"role": "assistant", "content": "OPEN"},
        {"role": "user", "content": [{"type": "text", "text": "And "}, source]},
    ]


RENDERED = (
    "<|system|>\nBe brief.<|end|>\n<|user|>\n<|image_1|>\nOCR<|end|>\n<|assistant|>\nOPEN<|end|>\n"
    "<|user|>\nAnd <|image_2|>\n<|end|>\n<|assistant|>\n"
)


@pytest.mark.parametrize(
    "source",
    [
        {"type": "image", "image": Image.open(SIGN)},
        {"type": "image", "path": str(SIGN)},
        {"type": "image", "url": str(SIGN)},
        {"type": "image_url", "image_url": {"url": str(SIGN)}},
        {"type": "image_url", "image_url": str(SIGN)},
    ],
)
def test_structured_content(processor: Phi3VProcessor, source: dict[str, Any]) -> None:
    messages = chat(source)
    assert processor.apply_chat_template(messages, add_generation_prompt=True) == RENDERED
    expected = processor(RENDERED, [SIGN, SIGN])
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True
    )
    assert all(torch.equal(inputs[key], expected[key]) for key in expected)
    assert messages == chat(source), "the caller's messages were changed"
    ids = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)
    assert torch.equal(ids, expected["input_ids"])


def test_strings_with_tags_as_model_cards_have_them(processor: Phi3VProcessor) -> None:
    messages = [{"role": "user", "content": "<|image_1|>\nOCR"}]
    for template in (processor.apply_chat_template, processor.tokenizer.apply_chat_template):
        assert template(messages, tokenize=False, add_generation_prompt=True) == ONE


def test_several_conversations(processor: Phi3VProcessor) -> None:
    one = [{"role": "user", "content": [{"type": "image", "image": SIGN}]}]
    other = [{"role": "user", "content": "Hello"}]
    inputs = processor.apply_chat_template(
        [one, other],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        padding=True,
    )
    assert inputs["attention_mask"].sum(1).tolist() == [
        len(processor.apply_chat_template(own, tokenize=True, add_generation_prompt=True)[0])
        for own in (one, other)
    ]


def test_a_picture_s_tag_in_the_text_is_no_second_picture(processor: Phi3VProcessor) -> None:
    parts = [{"type": "image", "image": SIGN}, {"type": "text", "text": "Is <|image_1|> there?"}]
    with pytest.raises(PromptError, match="exactly once"):
        processor.apply_chat_template([{"role": "user", "content": parts}], tokenize=True)


def test_the_image_text_to_text_pipeline(nano_folder: Path) -> None:
    pipe = pipeline("image-text-to-text", model=str(nano_folder))
    assert isinstance(pipe.model, phisight.hf.Phi3VForCausalLM)
    question = "Help me get the title and author information of this book?"
    messages = [
        {
            "role": "user",
            "content": [{"type": "image", "url": str(BOOK)}, {"type": "text", "text": question}],
        }
    ]
    (answer,) = pipe(text=messages, max_new_tokens=80, return_full_text=False)
    expected = 'The title of the book is "ALONE" and the author is Morgan Maxwell.'
    assert answer["generated_text"] == expected
    whole = pipe(text=messages, max_new_tokens=80)[0]["generated_text"]
    assert whole[-1] == {"role": "assistant", "content": expected}


def test_a_pipeline_in_batches_answers_as_one_by_one(nano_folder: Path) -> None:
    """It pads by itself, on the tokenizer's side; the official files say right."""
    pipe = pipeline("image-text-to-text", model=str(nano_folder))
    questions = ("OCR", "What does the sign say, letter by letter?")
    chats = [
        [{"role": "user", "content": [{"type": "image", "url": str(SIGN)}, _text(question)]}]
        for question in questions
    ]
    options = {"max_new_tokens": 8, "return_full_text": False}
    single = [pipe(text=messages, **options)[0]["generated_text"] for messages in chats]
    batch = pipe(text=chats, batch_size=2, **options)
    assert [answer["generated_text"] for (answer,) in batch] == single
    assert all(single)


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


# Refusals.


@pytest.mark.parametrize(
    ("text", "images", "error", "message"),
    [
        (Image.new("RGB", (4, 4)), ONE, PromptError, "takes a string or a list of strings first"),
        ([], None, PromptError, "takes a string or a list of strings first"),
        (ONE, np.zeros((9, 9, 3), np.uint8), ImageError, "PIL.Image.fromarray"),
        (ONE, [torch.zeros(3, 9, 9)], ImageError, "PIL.Image.fromarray"),
        (ONE, "nowhere.png", ImageError, "nowhere.png: no such file"),
        (ONE, None, PromptError, "no picture was given, but the prompt has image tags"),
        (NONE, [SIGN], PromptError, "1 picture.s. need <.image_1.> exactly once"),
        (TWO, [SIGN], PromptError, "found: <.image_1.>, <.image_2.>"),
        (TWO.replace("_2", "_3"), [SIGN, BOOK], PromptError, "found: <.image_1.>, <.image_3.>"),
        ([ONE, ONE], [SIGN], PromptError, "2 image tags in all and 1 images were given"),
        ([ONE, NONE], [[SIGN]], PromptError, "1 lists of images for 2 texts"),
        ([ONE, NONE], [[SIGN], []], OptionError, "make no tensor: padding=True"),
    ],
)
def test_clear_errors(
    processor: Phi3VProcessor, text: Any, images: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        processor(text, images)


def test_an_image_part_may_leave_its_picture_open(processor: Phi3VProcessor) -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "OCR"}]
    messages = [{"role": "user", "content": parts}]
    assert processor.apply_chat_template(messages, add_generation_prompt=True) == ONE
    with pytest.raises(PromptError, match="an image part names no picture"):
        processor.apply_chat_template(messages, tokenize=True)


@pytest.mark.parametrize("part", [{"type": "video", "video": "a.mp4"}, 5, None])
def test_parts_that_are_neither_text_nor_a_picture(processor: Phi3VProcessor, part: Any) -> None:
    with pytest.raises(PromptError, match="expected .*'type': 'text'"):
        processor.apply_chat_template([{"role": "user", "content": [part]}])


def test_unknown_options_are_refused(processor: Phi3VProcessor) -> None:
    with pytest.raises(TypeError, match="num_crop"):
        processor(ONE, SIGN, num_crop=3)
    with pytest.raises(OptionError, match="preprocess has no option size"):
        processor.image_processor(SIGN, size=3)
    with pytest.raises(OptionError, match="num_img_tokens=100: only 144"):
        Phi3VImageProcessor(num_img_tokens=100)
