"""What a report says in words: its three findings, and numbers rounded to what their spread allows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import floor, isnan, log10, nan

import pandas as pd

from nnunetv2_selfreg.inspect.values import AREA, DIFFERENCE, IN_CLASS, STUDENTS, depths, short

MOST_DECIMALS = 3
CLEAR = 0.9  # the share of units that agree, from which a difference of two models is called more or less
Show = Callable[[float], str]
Words = tuple[str, str, str]  # more, less and the same


def rounded(value: float, spread: float = nan, sign: bool = False) -> str:
    """A value with the decimals that its spread allows, and the spread if it is not nothing.

    A spread has one significant digit, or two where the first is a 1, and at most three decimals. Without a spread the
    value has two decimals.
    """
    decimals = 2
    if spread > 0:
        power = floor(log10(spread))
        decimals = min(max(-power + (spread < 2 * 10.0**power), 0), MOST_DECIMALS)
    elif spread == 0:
        decimals = 0 if value == round(value) else MOST_DECIMALS
    number = round(value, decimals) + 0.0  # no -0
    text = f"{number:+.{decimals}f}" if sign and number else f"{number:.{decimals}f}"
    return f"{text} ± {spread:.{decimals}f}" if round(spread if spread > 0 else 0, decimals) else text


def percent(value: float) -> str:
    """A share as a whole percentage."""
    return f"{100 * value:.0f} %"


def plain(value: float) -> str:
    """A value with two decimals."""
    return f"{value:.2f}"


@dataclass(frozen=True)
class Findings:
    """The answers to the report's three questions, each with its size; two models are A and B.

    Attributes:
        summary: What `summarise` gave, of the models and their differences, with the means of the classes.
        stages: The network's stages in the order of the forward pass.
        terms: The titles of the terms by name.
        unit: What the spread is over, in a word.
    """

    summary: pd.DataFrame
    stages: Sequence[str]
    terms: Mapping[str, str]
    unit: str

    def all(self) -> list[tuple[str, str]]:
        """Each finding as a sentence that says it with its size, and what explains it."""
        return [self._looks(), self._alike(), self._losses()]

    def _looks(self) -> tuple[str, str]:
        encoder = [stage for stage in self.stages if stage.startswith("encoder")]
        groups = {"encoder": encoder, "decoder": [stage for stage in self.stages if stage not in encoder]}
        means = self._group_means(IN_CLASS, groups)
        if not means:
            seen = [letter for letter in self._letters if len(self._stage_means(letter, IN_CLASS))]
            but = f", except in {seen[0]}" if len(seen) < len(self._letters) and any(seen) else ""
            return f"No class is there to explain in these cases{but}.", ""
        if len(means) == 2:
            one, other, order, units = self._of_all_stages(IN_CLASS, percent, ("more than", "less than", "as much as"))
            said = (
                f"B's stages look at the classes {order} A's: {percent(other)} of a stage's Grad-CAM lies inside the "
                f"class, {percent(one)} in A ({units})."
            )
        elif not encoder:
            (one,) = next(iter(means.values())).values()
            said = f"Of a decoder stage's Grad-CAM {percent(one)} lies inside the class."
        else:
            one, other = next(iter(means.values())).values()
            order = _order(percent, one, other, ("more than", "less than", "as much as"))
            said = (
                f"The encoder looks at the classes {order} the decoder: {percent(one)} of an encoder stage's Grad-CAM "
                f"lies inside the class, {percent(other)} of a decoder stage's."
            )
        areas = self.summary[(self.summary["measure"] == AREA) & (self.summary["model"] != DIFFERENCE)]
        even = f"These are means over stages; a map spread evenly would have {percent(areas['mean'].mean())}."
        return said, f"{even} {_in_groups(means, percent)}{self._largest(IN_CLASS, percent, 'The share')}"

    def _alike(self) -> tuple[str, str]:
        depth = depths(self.stages)
        middle = max(depth.values()) / 2
        deep, shallow = ([stage for stage in self.stages if (depth[stage] - middle) * side > 0] for side in (1, -1))
        named = {"deep stages": deep, "shallow stages": shallow}
        groups = {f"{name} ({', '.join(map(short, stages))})": stages for name, stages in named.items() if stages}
        groups = groups or {"stages": list(self.stages)}  # all of one depth
        means = self._group_means("redundancy", groups)
        if not means:
            return "How alike the channels are cannot be said: too few channels vary.", ""
        alike = "more alike than", "less alike than", "as alike as"
        what = "the mean absolute correlation of two channels of a stage is"
        if len(means) == 2:
            one, other, order, units = self._of_all_stages("redundancy", plain, alike)
            said = f"B's channels are {order} A's: {what} {plain(other)}, {plain(one)} in A ({units})."
        elif len(groups) == 1:
            (one,) = next(iter(means.values())).values()
            said = f"{what[0].upper()}{what[1:]} {plain(one)}."
        else:
            one, other = next(iter(means.values())).values()
            of_deep, of_shallow = groups
            order = _order(plain, one, other, alike)
            said = f"The channels of the {of_deep} are {order} those of the {of_shallow}: {what} "
            said += f"{plain(one)} and {plain(other)}."
        return said, f"{_in_groups(means, plain)}{self._largest('redundancy', plain, 'The correlation')}"

    def _losses(self) -> tuple[str, str]:
        sizes, largest = [], []
        for term, title in self.terms.items():
            totals = {letter: plain(means[STUDENTS]) for letter in self._letters
                      if STUDENTS in (means := self._means(letter, term))}  # fmt: skip
            if len(self._letters) == 2 and STUDENTS in self._means(DIFFERENCE, term):
                sizes.append(f"{title} is {self._pair(term, STUDENTS, plain)}")
            elif totals:
                values = (f"{value}{f' in {letter}' if letter else ''}" for letter, value in totals.items())
                sizes.append(f"{title} is {', '.join(values)}")
            if len(totals) == len(self._letters):
                largest.append(self._largest(term, plain, title))
        if not sizes:
            return "The losses could not be measured.", ""
        return f"Over all students, before the weights, {'; '.join(sizes)}.", " ".join(largest)

    @property
    def _letters(self) -> list[str]:
        return [letter for letter in self.summary["model"].unique() if letter != DIFFERENCE]

    def _means(self, model: str, measure: str) -> pd.Series:
        """The means by stage, and of all students together, without those that have none."""
        chosen = self.summary[self.summary[["model", "measure", "class"]].eq([model, measure, ""]).all(axis=1)]
        return chosen.set_index("stage")["mean"].dropna()

    def _stage_means(self, model: str, measure: str) -> pd.Series:
        return self._means(model, measure).filter(items=self.stages)

    def _group_means(self, measure: str, groups: Mapping[str, Sequence[str]]) -> dict[str, dict[str, float]]:
        """Each model's means over the stages of each group; empty if one of them has none."""
        found = {
            letter: {
                name: self._means(letter, measure).filter(items=stages).mean()
                for name, stages in groups.items()
                if stages
            }
            for letter in self._letters
        }
        return {} if any(isnan(mean) for means in found.values() for mean in means.values()) else found

    def _of_all_stages(self, measure: str, show: Show, words: Words) -> tuple[float, float, str, str]:
        """Both models' means over all stages, how B's is to A's in words, and in how many units."""
        one, other = (self._stage_means(letter, measure).mean() for letter in self._letters)
        rows = self.summary[self.summary[["model", "measure", "class"]].eq([DIFFERENCE, measure, ""]).all(axis=1)]
        gains = pd.DataFrame(rows.set_index("stage")["by_unit"].filter(items=self.stages).to_dict()).mean(axis=1)
        agree, units = self._agreement(other - one, gains)
        order = _order(show, other, one, words)
        return one, other, order if agree >= CLEAR else f"about {words[-1]}", units

    def _largest(self, measure: str, show: Show, subject: str) -> str:
        """The stage with the largest difference of two models; of one model its highest and its lowest."""
        if len(self._letters) == 1:
            means = self._stage_means(self._letters[0], measure)
            high, low = means.idxmax(), means.idxmin()
            return (
                f"{subject} is highest at {short(high)} ({show(means[high])}) and lowest at {short(low)} "
                f"({show(means[low])})."
            )
        differences = self._stage_means(DIFFERENCE, measure).abs()
        if differences.empty:
            return f"{subject}: no {self.unit} has it in both models."
        if not differences.any():
            return f"{subject} differs at no stage."
        at = differences.idxmax()
        return f"{subject} differs most at {short(at)}: {self._pair(measure, at, show)}."

    def _pair(self, measure: str, stage: str, show: Show) -> str:
        """Both models' values at a stage, and in how many of the units B is on the side of its mean."""
        one, other = (self._means(letter, measure)[stage] for letter in self._letters)
        keys = ["model", "measure", "stage", "class"]
        (row,) = self.summary[self.summary[keys].eq([DIFFERENCE, measure, stage, ""]).all(axis=1)].to_dict("records")
        _, units = self._agreement(row["mean"], pd.Series(row["by_unit"]))
        return f"{show(one)} in A, {show(other)} in B ({units})"

    def _agreement(self, difference: float, gains: pd.Series) -> tuple[float, str]:
        """The share of the units in which B is on the side of the difference, and this in words."""
        if not len(gains):
            return 0.0, f"no {self.unit} in common"
        if not difference:
            return 1.0, "no difference"
        agree = int((gains * difference > 0).sum())
        return agree / len(gains), f"{'higher' if difference > 0 else 'lower'} in {agree} of {len(gains)} {self.unit}s"


def caution(models: int, runs: int, unit: str) -> str:
    """What findings of so many models cannot say, with so many trainings of each."""
    if models == 1 and runs == 1:
        return (
            "This is one training. Another training of the same model gives other values; several folds (-f 0 1 2) "
            "show by how much."
        )
    if models == 1:
        return f"Values are means over {runs} {unit}s of the model, each with the mean of its cases."
    if runs == 1:
        return (
            "This is one training of each model. Two trainings of one model differ by chance as well, so these "
            "differences cannot be called an effect of the method: compare several folds of both (-f 0 1 2)."
        )
    return (
        f"{runs} {unit}s of each model are compared, {unit} by {unit}. By chance alone, all of them would agree on "
        f"which model is higher at about {percent(0.5 ** (runs - 1))} of the stages."
    )


def _order(show: Show, one: float, other: float, words: Words) -> str:
    more, less, same = words
    return same if show(one) == show(other) else more if one > other else less


def _in_groups(means: Mapping[str, Mapping[str, float]], show: Show) -> str:
    """The groups' means of two models; of one they have been said."""
    if len(means) == 1:
        return ""
    first, second = means.values()
    text = "; ".join(f"{name}: {show(first[name])} in A, {show(second[name])} in B" for name in first)
    return f"{text[0].upper()}{text[1:]}. "
