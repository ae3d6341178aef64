"""1,000 damaged picture files: a picture or one clear sentence, never a crash, a hang or a bomb.

They are opened and cut in a process of their own, so that a decoder's crash is seen. To see one
again: python tests/test_mutated_images.py <number>
"""

from __future__ import annotations

import faulthandler
import json
import os
import re
import resource
import subprocess
import sys
import warnings
from pathlib import Path

from mutations import MUTATIONS, mutated, seeds

from phisight.errors import ImageError, PhisightWarning
from phisight.processing.image import FORMATS, MAX_PIXELS, open_image
from phisight.processing.processor import Processor

NUM_FILES = 1000
SECONDS = 60  # of one file, which then hangs: the slowest takes 0.3
# What the largest picture allowed may take, a WebP: the decoder's two canvases, the frame it hands
# out, the picture, and its RGB copy, of 4 bytes a pixel.
MOST_BYTES = 5 * 4 * MAX_PIXELS
SLACK = 2**28  # address space that torch, a thread's stack and the crops may still reserve
OFFICIAL = Path(__file__).parent / "data" / "phi3v"

SENTENCES = (
    "the file is empty",
    rf"not a picture phisight reads; convert it to one of {', '.join(FORMATS)}",
    r"the picture is damaged or cut short",
    r"\d+x\d+ pixels; the limit is 89,478,485 pixels\. Scale the picture down",
    r"more than 89,478,485 pixels; the limit is 89,478,485 pixels\. Scale the picture down",
    r"more than [\d,]+ (pieces|JPEG scans|EXIF segments|tiles), which no camera or editor writes; "
    r"save the picture anew",
    r"no memory to decode it; scale the picture down",
)
REFUSED = re.compile(
    rf"(\d+ bytes of data|\S*/mutated): ({'|'.join(SENTENCES)})"
    r"|the PIL image: a picture of \d+x\d+ pixels is too long and thin: with num_crops=4 the "
    r"longer side may be at most 1344 times the shorter one; crop the picture or raise num_crops"
)
# libtiff's own lines on stderr, which Pillow gives no way to silence.
LIBTIFF = re.compile(r"[\w.]+: .+\.|More samples per pixel than can be decoded: \d+")
NOTE = re.compile(r"\S.* has more than one frame or page; only the first is used")


def outcome(source: bytes | str, processor: Processor) -> str:
    """What came of a file: its mode and the number of its crops, or the message."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            picture = open_image(source)
            picture.tobytes()
            crops = processor.image(picture)
        except ImageError as error:
            assert REFUSED.fullmatch(str(error)), error
            return "refused"
    notes = [str(w.message) for w in caught if w.category is PhisightWarning]
    assert all(NOTE.fullmatch(note) for note in notes), notes
    assert picture.mode == "RGB"
    assert bool(crops.pixels.isfinite().all())
    return "opened"


def run(numbers: range, folder: Path) -> None:
    """In a process of its own: open the files of some numbers; what came of it as JSON."""
    processor = Processor(OFFICIAL, num_crops=4)
    for data in seeds().values():
        outcome(data, processor)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    room = pages * resource.getpagesize() + MOST_BYTES + SLACK
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    counts: dict[str, int] = {}
    for number in numbers:
        what, data = mutated(number)
        print(number, what, flush=True)
        (folder / "mutated").write_bytes(data)
        # Every third from the disk: libtiff reads such a file by itself.
        source = data if number % 3 else str(folder / "mutated")
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        came = outcome(source, processor)
        faulthandler.cancel_dump_traceback_later()
        for key in (came, f"{what.split()[0].strip(',')} {came}", f"{what.split(', ')[1]} {came}"):
            counts[key] = counts.get(key, 0) + 1
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    print(json.dumps({"counts": counts, "grown": grown}))


def test_a_thousand_damaged_files(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "faulthandler", __file__, "0", str(NUM_FILES), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    *files, last = done.stdout.splitlines()
    assert done.returncode == 0, f"file {last}\n{done.stderr}"
    assert all(LIBTIFF.fullmatch(line) for line in done.stderr.splitlines()), done.stderr
    assert len(files) == NUM_FILES
    record = json.loads(last)
    assert record["grown"] < MOST_BYTES
    # The mutations do what they are for: every format and every mutation opens and is refused.
    for key in ("", *(name.lower() for name in FORMATS), *(m.__name__ for m in MUTATIONS)):
        for came in ("opened", "refused"):
            assert record["counts"].get(f"{key} {came}".strip(), 0) >= 3, (key, came)


if __name__ == "__main__":
    first, last = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else int(sys.argv[1]) + 1
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    run(range(first, last), Path(sys.argv[3] if len(sys.argv) > 3 else "."))
