"""The cells of phi3_vision.ipynb in order, without outputs. `make_notebook.py` runs them."""

from __future__ import annotations

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

MACHINE = "machine"  # tags a cell that shows seconds, memory, probabilities or the device


def md(text: str) -> NotebookNode:
    return new_markdown_cell(text.strip())


def code(text: str) -> NotebookNode:
    return new_code_cell(text.strip())


def machine(text: str) -> NotebookNode:
    """A code cell whose outputs differ from machine to machine, or from run to run."""
    return new_code_cell(text.strip(), metadata={"tags": [MACHINE]})


CELLS = [
    md("""
# Phi-3-Vision in Python, step by step

The usual first steps with Phi-3-Vision: load it, describe an image, read text in an image, compare
two images, read a table. They are done here with phisight, on pictures drawn for this repository.

Everything runs offline on `nano`, a small model of the same architecture that comes with the
package (27.8 million parameters; Phi-3.5-Vision has 4.1 billion). `nano` reads drawn charts, book
covers, short texts, tables and simple shapes, and makes mistakes; where an answer below is wrong,
the text says so. [Its card](../src/phisight/assets/nano/README.md) lists its known faults.

To install phisight and a notebook server, in a clone of this repository:

```sh
pip install . notebook
```"""),
    md("""
## 1. Load a model

Without a name, `load` takes the bundled model. The output says on which device it runs, in which
number format, and why."""),
    machine("""
import phisight

model = phisight.load()
model"""),
    md("""
For photographs and documents get the full model, once (8.3 GB), on the command line:

```sh
phisight pull phi-3.5-vision
```

and load it by its name; the other cells stay as they are. It takes about 9 GB of memory in
bfloat16.

```python
model = phisight.load("phi-3.5-vision")
```"""),
    md("""
## 2. Describe an image

`show` only makes the pictures small enough for this page; the model gets the files.
`logprobs=2` is not needed for an answer. It keeps how likely each token was, for part 6."""),
    code("""
def show(*pictures):
    for picture in pictures:
        small = phisight.open_image(picture)
        small.thumbnail((480, 280))
        display(small, include=["image/jpeg"])


show("chart.png")"""),
    code("""
description = model.ask(
    "Could you please introduce this chart to me?", images=["chart.png"], logprobs=2
)
print(description)"""),
    md("""
All six values are right, and so are the highest, the lowest and the trend. `nano` describes nine
held-out charts in ten without a slip; [its page](../docs/nano.md) has the figures.

An answer knows why it ended, how many tokens it took, and how long each part of the work lasted:
opening and encoding the picture, reading the prompt (prefill), writing the answer (decode)."""),
    code("""
print(description.finish_reason)
print(description.usage)"""),
    machine("print(description.summary())"),
    md("""
## 3. OCR: title and author of a book

An answer at the end of a cell is shown with its costs."""),
    code('show("book.png")'),
    machine("""
answer = model.ask(
    "Help me get the title and author information of this book?", images=["book.png"]
)
answer"""),
    md("Its text is a string."),
    code("answer.text"),
    md("""
## 4. Compare two images

The pictures of a question are numbered in the order of the list."""),
    code('show("pair-a.png", "pair-b.png")'),
    code("""
print(model.ask("What is difference in this two images?", images=["pair-a.png", "pair-b.png"]))"""),
    md("""
That is right. `nano` compares drawn scenes, charts, covers and short texts.

## 5. Read a table

The model writes a table as text; `table_rows` takes the cells out of it."""),
    code('show("table.png")'),
    code("""
answer = model.ask("Read this table as Markdown.", images=["table.png"])
print(answer)"""),
    code(r"""
header, *rows = phisight.table_rows(answer.text)
print(header)
print(*rows, sep="\n")
print(f"sum of the prices: {sum(float(price.strip('$')) for _, _, price in rows):.2f}")"""),
    md("""
## 6. Beyond the first steps

### Streaming and reuse

`encode_image` runs the vision tower once; the result can stand wherever a picture can, with this
model, in any number of questions. `stream` gives the answer in pieces as it is written. `nano` has
one token per byte; the pieces of the full model are mostly words."""),
    code("""
chart = model.encode_image("chart.png")

for piece in model.stream("Which year has the highest value?", images=[chart]):
    print(piece, end="|", flush=True)"""),
    code("""
for question in ("What is the value of FY19?", "Which year has the lowest value?"):
    answer = model.ask(question, images=[chart])
    print(f"{question} {answer}")"""),
    md("""
The costs show what reuse saves: the picture takes no time any more."""),
    machine("print(answer.summary())"),
    md("""
### The prompt by hand

A question becomes a prompt in the model's chat format. A string that starts with `<|user|>` is
taken as that format already, as in many how-tos; `<|image_1|>` says where the picture belongs."""),
    code(r"""
prompt = "<|user|>\n<|image_1|>\nWhich year has the highest value?<|end|>\n<|assistant|>\n"
print(model.ask(prompt, images=[chart]))"""),
    md("""
### A conversation

`chat` keeps the turns, and encodes each picture once."""),
    code("""
chat = model.chat()
print(chat.ask("What is the title of this book?", images=["book.png"]))
print(chat.ask("Who is the author of this book?"))
print(chat.ask("Read all the text in the image."))
print(len(chat.messages), "messages")"""),
    md("""
`nano` was trained on up to three questions about one picture, each complete in itself. Asked
"And who wrote it?" it reads out the cover. For conversations use the full model."""),
    md("""
### What a question will take

`cost` counts tokens and memory without running the model."""),
    code("""
cost = model.cost("Compare the two images.", images=["pair-a.png", "pair-b.png"])
print("prompt:", cost.prompt_tokens, "tokens, of these", cost.image_tokens, "for the pictures")
print("room for the answer:", cost.max_answer_tokens, "tokens")"""),
    machine("print(cost)"),
    md("""
### How a picture is cut

The model sees each picture as a small overview and as a grid of crops of 336 by 336 pixels. More
crops show finer detail and take more tokens; `phisight.load(num_crops=...)` sets their limit."""),
    code("""
preview = phisight.preview_crops("chart.png")
print(preview)
show(preview.drawing)"""),
    md("""
### Log-probabilities

With `logprobs=n` an answer holds how likely the model found each of its tokens, and the `n`
likeliest tokens at each place. Where, in the description of part 2, did the chosen token have a
probability below 0.9?"""),
    machine("""
written = ""
for token in description.logprobs:
    if token.probability < 0.9:
        choices = [f"{other.text!r} {other.probability:.2f}" for other in token.top]
        print(f"...{written[-30:]!r} then {' or '.join(choices)}")
    written += token.text"""),
    md("""
Nothing is printed where none had. Probabilities do not always warn: an earlier `nano` named FY24 as
the year with the lowest value, and the 4 had 0.97."""),
    md("""
### Rows of a dataset

`map` takes any iterable of rows, for example a Hugging Face dataset, and a function that makes a
question of a row. With `errors="return"` a row that cannot be asked gives its error, and the others
go on."""),
    code('show("sign.png")'),
    code("""
dataset = [
    {"file": "sign.png", "question": "Read all the text in the image."},
    {"file": "missing.png", "question": "Read all the text in the image."},
    {"file": "chart.png", "question": "What is the value of FY22?"},
]


def request(row):
    return {"prompt": row["question"], "images": [row["file"]]}


for row, answer in zip(dataset, model.map(dataset, request, errors="return"), strict=True):
    print(f"{row['file']:12} {answer}")"""),
    md("""
### Errors

What phisight raises on purpose is a `PhisightError`: one sentence with the value and, where there
is one, the remedy. Pictures may be URLs, but not of private or local addresses."""),
    code("""
for picture, options in (
    ("missing.png", {}),
    ("http://127.0.0.1:8000/chart.png", {}),
    ("chart.png", {"max_token": 100}),
):
    try:
        model.ask("Describe this chart.", images=[picture], **options)
    except phisight.PhisightError as error:
        print(f"{type(error).__name__}: {error}")"""),
    md("""
The [README](../README.md) tells of the command line and the other options;
[accuracy.md](../docs/accuracy.md) says how phisight is checked against the official code."""),
]
