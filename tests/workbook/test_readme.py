"""Numbers in the README's prose, outside its generated blocks, are the library's.

Measured results stand in the blocks (:mod:`tests.test_published`). In the section of results any
other number has to be stated here, with where it comes from.
"""

import math
import re

import pytest
from sklearn.datasets import load_digits

from lib import networks
from lib.compression.job import FILLED
from lib.data.catalogue import HELD_OUT
from lib.layers import compressible
from lib.workbook import experiments, publish, report, runs

WORDS = {3: "three", 6: "six", 20: "twenty"}

#: Numbers of the section of results that no code here holds, each with its reason.
ELSEWHERE = {
    "32 bits times all weights": "the definition of the rate",
    "32 bits per nonzero": "the same",
    "zero is one of the 2ᵇ values": "a formula",
    "(1 − m)·ρ": "a formula",
    "We clamp M to [0, 1]": "a formula",
    "NAME's 60,000 images": "CIFAR-10's training and test images",
    "asks for 1,975×": "the authors' public command",
    "for 100 at 0.001": "DF's Table 2",
}

#: What has a number in its name.
NAME = re.compile(
    r"(LeNet|CIFAR|ResNet|bfloat)-?\d+(-\d+)*|LC-ℓ0"
    r"|(Tables?|Figures?|[Nn]otebooks?) \d+[a-f]?((, | and | to )\d+[a-f]?)*"
)


def prose(text):
    """The text on one line, without blocks, code, pictures and the addresses of links."""
    text = re.sub(r"<!-- begin ([\w-]+) -->\n.*?<!-- end \1 -->", "", text, flags=re.DOTALL)
    text = re.sub(r"```.*?```|`[^`]*`|!\[[^]]*\]\([^)]*\)", "", text, flags=re.DOTALL)
    return " ".join(re.sub(r"\]\([^)]*\)", "]", text).split())


@pytest.fixture(scope="module")
def readme():
    return publish.README.read_text(encoding="utf-8")


def results():
    """What the section of results states, from where it comes."""
    widths = [w.shape[0] for w in compressible(networks.build("lenet5")).values()]
    start = min(row.get("start_bits", 3) for row in experiments.TABLE_3["mnist"])
    asked = experiments.TABLE_3["mnist"][0]["rate"]
    paper = experiments.recipes.admm_schedule("mnist")
    trial = experiments.comparison.trials()["admm"][0]
    rate = round(32 * experiments.recipes.weights("lenet300") / trial.budget)
    tuned, held_out = experiments.comparison.TUNED["admm"], HELD_OUT["mnist"]
    error = 100 * math.sqrt(0.98 * (1 - 0.98) / held_out)
    short, cpu = experiments.df.SHORT, experiments.admm_table_4.CPU
    trained_on = experiments.df.df(
        "cifar10-jpeg", reduction=0.5, **experiments.df.short("cifar10-jpeg")
    )
    return [
        f"Caffe's {'-'.join(map(str, widths))}",
        f"with a {100 * report.statistics.LEVEL:.0f} % interval",
        f"Starting every layer at {start} bit",
        f"own drop of {report.reported('admm_table3')['drop_points'].iloc[-1]:.1f}",
        f"norm is limited to {paper.clip:g} in every row",
        f"ours asks for {asked:,}×",
        f"{experiments.admm_table_3.FIGURE_2_EPOCHS['mnist']} epochs per curve, "
        f"where the paper trains {paper.epochs}",
        f"The mirror's rows have {experiments.admm_table_4.SHORT['resnet20']} epochs "
        "where the paper has "
        f"{experiments.recipes.admm_schedule('cifar10', 'resnet20').epochs}",
        f"{cpu['dense']} epochs of the dense network, {cpu['compress']} of ADMM and {cpu['tune']} "
        "of its codebooks on a CPU",
        f"{experiments.lc.EPOCHS['mnist']} epochs from one dense network",
        f"chosen by {WORDS[len(experiments.comparison.TRIALS['admm'])]} trials",
        f"at {rate}× on NAME",
        f"ρ of ADMM rises {WORDS[tuned['rise']]}fold from {tuned['rho']:g}",
        f"with the paper's constant {experiments.recipes.RHO:g} is a row of its own",
        f"One accuracy near 98 % on the {held_out:,} held-out images has a standard error of about "
        f"{error:.1f} points",
        f"with {100 * report.statistics.LEVEL:.0f} % intervals over the seeds",
        f"with {100 * report.statistics.LEVEL:.0f} % intervals, and a positive one",
        f"from each of the others at {100 * (1 - report.statistics.LEVEL):.0f} %",
        f"it trains on for {experiments.df.FULL['tune']} epochs",
        f"On NAME the dense network has {cpu['dense']} epochs, the choice of filters and ranks "
        f"{experiments.df.CPU['choose']}, and the training of what is left "
        f"{experiments.df.CPU['tune']}",
        f"on the JPEG mirror these are {experiments.df.SHORT_DENSE}, {short['choose']} and "
        f"{short['tune']}.",
        f"λ = {experiments.df.PRINTED['penalty']:g} alone stays far from the budget",
        f"so λ is {experiments.df.DF_OPTIONS['penalty']:g}",
        f"train on for {short['tune']} epochs at {trained_on.stages[-1].schedule.lr:g}",
    ]


def test_every_number_among_the_results_is_generated_or_comes_from_code(readme):
    section = readme.split("## What was measured\n")[1].split("\n## ")[0]
    left = NAME.sub("NAME", prose(section))
    for stated in [*results(), *ELSEWHERE]:
        assert stated in left, "the README does not say so any more"
        left = left.replace(stated, "")
    typed = [left[max(0, m.start() - 40) : m.end() + 20] for m in re.finditer(r"\d", left)]
    assert not typed, (
        "generate these in a block of lib.workbook.publish, or state their source here"
    )


def test_numbers_of_the_other_sections(readme):
    digits, cpu = f"{len(load_digits().images):,}", experiments.admm_table_4.CPU
    choose, then = experiments.df.CPU["choose"], experiments.df.CPU["tune"]
    for stated in (
        f"{digits} real 8×8 digits",
        f"{digits} 8×8 digits",
        f"{cpu['dense']} epochs of the dense network, {cpu['compress']} of ADMM and {cpu['tune']} "
        f"of its codebooks, {choose} of DF's choice and {then} of training what is left",
    ):
        assert stated in prose(readme)
    assert f"in parts of at most {runs.exchange.PART_BYTES // 10**6} MB" in readme
    budget = 100_000  # the example's
    assert f"{FILLED * budget:,.0f} to {budget:,} bytes, all in it" in readme
