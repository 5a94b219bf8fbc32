"""The line that a user reads."""

from jaxvae.train.console import describe

ROW = {"train/loss": 3.214, "train/term_ce": 1.0, "train/skipped": 0.0, "time/examples_per_s": 812.4}


def test_a_row_in_one_line():
    assert (
        describe(ROW | {"train/lr": 3e-4, "train/lr_slow": 1e-4}) == "loss 3.214 (ce 1)  lr 3.0e-04  812.4 examples/s"
    )


def test_groups_may_have_all_the_weights():
    row = ROW | {"train/lr_slow": 1e-4, "train/lr_fast": 1e-2, "train/skipped": 0.25}
    assert describe(row) == "loss 3.214 (ce 1)  lr_fast 1.0e-02  812.4 examples/s  25% of updates skipped"
