"""The copies of GlaS and MoNuSeg that papers pass on: `{Train,Val,Test}_Folder/{img,labelcol}/NAME`."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from nnunetv2_selfreg.benchmarks.benchmark import ArchiveCase, Benchmark, Staging, name_of, sort_listed

PASSED_ON = "masks as passed on"  # what dataset.json and the tables call these reference masks


def passed_on(
    archive: Benchmark,
    names: str,
    example: str,
    description: str,
    train: Sequence[str],
    test: Sequence[str],
    name: Callable[["re.Match[str]"], str] = name_of,
    write: Callable[[ArchiveCase, Staging], None] | None = None,
) -> Benchmark:
    """Describes the copy of a benchmark that papers pass on.

    Args:
        archive: The benchmark in its original layout.
        names: Pattern of the files' names without their ending.
        example: Such a name.
        description: The split and what is done to the files, in a sentence.
        train: Names of the pictures in `Train_Folder` and `Val_Folder`.
        test: Names of the pictures in `Test_Folder`.
        name: What a picture is called; its match has the groups `part` (Train, Val or Test) and `name`.
        write: How a picture and its mask are written; as the archive's when left out.
    """
    folders = r"(?:^|/)(?P<part>Train|Val|Test)_Folder/(?:img|(?P<label>labelcol))/"
    return replace(
        archive,
        masks=PASSED_ON,
        example=f"Train_Folder/img/{example} with Train_Folder/labelcol/{example}",
        wanted=re.compile(rf"{folders}(?P<name>{names})\.(?i:tiff?|png|webp)$"),
        name=name,
        templates=("{1.parent.parent.name}/img/{1.stem}.png", "{1.parent.parent.name}/labelcol/{1.stem}.png"),
        sort=partial(sort_listed, train=train, test=test, others=0),
        write=write or archive.write,
        description=description,
        instances=False,
    )
