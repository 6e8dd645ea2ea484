"""Settings of studies that cannot be, each refused in one sentence."""

import pytest

from robustseg.attacks import BIM, DS, FGSM, PGD, CosPGD, Square
from robustseg.studies import (
    Convergence,
    DynamicScaleAblation,
    EpsCurve,
    MultiScaleEvaluation,
    ScheduleAblation,
    StepCurve,
    StudyError,
    TransferMatrix,
)

PGD_ONLY = {"pgd": PGD()}
BIM_ONLY = {"bim": BIM()}
ATTACKS = {"fs2": BIM(steps=2), "ds2": DS(steps=2)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StepCurve({}, [1]), r"attacks = \{\}: name at least one"),
        (lambda: StepCurve(PGD_ONLY, []), r"steps = \[\]: give at least one"),
        (lambda: StepCurve(PGD_ONLY, [3, 0]), r"steps = \[3, 0\]: 0 is no number of steps"),
        (lambda: StepCurve(PGD_ONLY, [2, 3, 2]), "2 is there twice"),
        (lambda: StepCurve({"square": Square()}, [2]), r"attacks.square: Square cannot be varied"),
        (lambda: StepCurve({"fgsm": FGSM()}, [2]), r"attacks.fgsm: FGSM has one step by definition"),
        (lambda: StepCurve({"pgd": PGD(), "pgd1": PGD(eps=0.1)}, [1, 11], "x/y"), r"name = 'x/y': use letters"),
        (lambda: EpsCurve(PGD_ONLY, ["a lot"]), "eps = 'a lot' is not a number: write a fraction such as 8/255"),
        (lambda: EpsCurve(PGD_ONLY, ["-1/255"]), "eps = -1/255 is negative"),
        (lambda: EpsCurve(PGD_ONLY, ["8/255", "16/510"]), "there twice"),
        (lambda: EpsCurve(PGD_ONLY, ["1"], "other"), "step_size = 'other': use relative or constant"),
        (lambda: EpsCurve({"pgd": PGD(eps=0)}, ["1"]), "attacks.pgd: eps = 0 says nothing about its step size"),
        (lambda: ScheduleAblation(["quadratic"], [2]), r"schedules names 'quadratic': use linear, log, exp"),
        (lambda: ScheduleAblation(["1.5"], [2]), "schedules = 1.5: a constant weight lies in"),
        (lambda: ScheduleAblation(["0.1", 0.1], [2]), "0.1 is there twice"),
        (lambda: DynamicScaleAblation([1.0], [2]), "1.0 is outside of"),
        (lambda: DynamicScaleAblation([0.1], [0]), "0 is no number of steps"),
        (lambda: StepCurve({"a1": PGD(), "a1_": CosPGD()}, [2]), "both be called 'a1_2'"),
        (
            lambda: EpsCurve({"a": PGD(), "a eps 1/255": PGD(eps="1/255")}, ["1/255"]).attacks(),
            "both be called 'a eps 1/255'",
        ),
        (lambda: TransferMatrix({}), "name at least one attack"),
        (lambda: TransferMatrix(ATTACKS, [("fs2", "mifgsm")]), "comparisons name 'mifgsm', but attacks has: fs2, ds2"),
        (lambda: TransferMatrix(ATTACKS, [("fs2", "fs2")]), "compare an attack with another one"),
        (lambda: MultiScaleEvaluation(BIM_ONLY, []), "give at least one"),
        (lambda: MultiScaleEvaluation(BIM_ONLY, [0.5, 0.5]), "there twice"),
        (lambda: MultiScaleEvaluation(BIM_ONLY, [0.0]), "0.0 is no factor"),
        (lambda: MultiScaleEvaluation(BIM_ONLY, [float("nan")]), "no factor"),
        (lambda: Convergence({"ds": DS()}, 2), r"attacks\.ds: attack = DS takes its gradients elsewhere"),
        (lambda: Convergence(PGD_ONLY, 0), "0 is no number of steps"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(StudyError, match=message):
        make()


def test_the_threat_model_refuses_its_own():
    with pytest.raises(ValueError, match="eps = 2 exceeds 1"):
        EpsCurve(PGD_ONLY, ["2"])
