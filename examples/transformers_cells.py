"""The cells of phi3_vision_transformers.ipynb in order, without outputs."""

from __future__ import annotations

import howto_cells
from notebook_cells import code, md

CELLS = [
    md("""
# Phi-3-Vision in transformers: the how-to, unchanged but for one line

Microsoft's how-to for Phi-3-Vision does not run on transformers 5: the Python files that come with
the model need an older version. `import phisight.hf` registers classes of the same names that need
none of these files, and the how-to's code runs again as it stands. None of Microsoft's Python files
is run, and flash-attn need not be installed.

The four cells marked *how-to* are quoted character for character from the
[PhiCookBook](https://github.com/microsoft/PhiCookBook/blob/main/md/01.Introduction/03/Vision_Inference.md)
(Copyright (c) Microsoft Corporation, [MIT License](../tests/data/phi3v/NOTICE.md)). The other cells
are ours.

To install what this page needs, in a clone of this repository:

```sh
pip install '.[hf]' notebook ipywidgets
```"""),
    md("""
## The one line"""),
    code("import phisight.hf"),
    md("""
## For this page only: no network, no 8 GB, no GPU

Tests run this page offline on a machine without a GPU. So the next cell, which is no part of the
how-to, puts stand-ins in the place of what the how-to expects. It prints which; their code is in
[howto_offline.py](howto_offline.py).

**The answers below are therefore those of `nano`**, a small model of the same architecture that
comes with phisight (27.8 million parameters; Phi-3-Vision has 4.1 billion), **about pictures drawn
for this repository**. They show that the code runs, not what Phi-3-Vision can do.

With a network and a GPU, leave the cell out. The how-to's code then asks the Hugging Face hub for
Microsoft's weights, and the web for its own pictures."""),
    code("""
import howto_offline

howto_offline.stand_in()"""),
    md("## How-to: load the model"),
    code(howto_cells.PREPARE),
    md("""
Ours: which classes did that, and in which number format. `"auto"` takes the one that `config.json`
names."""),
    code("""
print(type(processor).__module__, type(processor).__name__)
print(type(model).__module__, type(model).__name__, model.dtype)"""),
    md("## How-to: a chart"),
    code(howto_cells.CHART),
    md("Ours: the picture, small, and the answer."),
    code("""
def show(*pictures):
    for picture in pictures:
        small = picture.copy()
        small.thumbnail((480, 280))
        display(small, include=["image/jpeg"])


show(image)
print(response)"""),
    md("""
All six values are right, and so are the highest, the lowest and the trend."""),
    md("## How-to: title and author of a book"),
    code(howto_cells.BOOK),
    code("""
show(image)
print(response)"""),
    md("""
The `<|end|>` is there because this cell says `skip_special_tokens=False`.

All three cells pass an `eos_token_id` of their own, the tokenizer's. For `nano` that is `<|end|>`,
which ends a turn. For Microsoft's models it is `<|endoftext|>`, and answers may run on past their
end. Without the argument every id stops that should:
[transformers.md](../docs/transformers.md#where-an-answer-stops)."""),
    md("## How-to: two pictures"),
    code(howto_cells.PAIR),
    code("""
show(image_1, image_2)
print(response)"""),
    md("""
That is right. `nano` compares drawn scenes, charts, covers and short texts.

[transformers.md](../docs/transformers.md) tells of batches, pipelines, streaming and LoRA.
[The other notebook](phi3_vision.ipynb) asks the same questions through phisight's own
interface."""),
]
