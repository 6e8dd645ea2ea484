"""The exponential moving average against its formula written out."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch

from robustseg.callbacks import EMA


class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
        self.seen = []

    def training_step(self, batch, batch_idx):
        return self.layer(batch).square().sum() + self.layer[0].weight.sum()

    def on_train_batch_end(self, *_):
        self.seen.append({name: value.double().clone() for name, value in self.state_dict().items()})

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("every", [1, 2])
def test_it_is_the_formula(every, tmp_path):
    torch.manual_seed(0)
    net, batches = Net(), list(torch.randn(7, 4, 3))
    before = {name: value.double().clone() for name, value in net.state_dict().items()}
    trainer = pl.Trainer(
        max_epochs=1,
        callbacks=[EMA(0.75, every)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        accelerator="cpu",
        default_root_dir=tmp_path,
    )
    trainer.fit(net, torch.utils.data.DataLoader(batches, batch_size=None))
    average = None
    for step, weights in enumerate(net.seen):
        if step % every == 0:
            # the first update takes the weights as they are
            average = (
                {name: 0.75 * average[name] + 0.25 * value for name, value in weights.items()} if average else weights
            )
    assert average is not None
    for name, value in net.state_dict().items():  # at the end the average takes the place of the weights
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), average[name], rtol=1e-5, atol=1e-6)
            assert not torch.equal(value.double(), before[name])


@pytest.mark.parametrize(
    ("arguments", "named"), [((1.0,), "decay = 1.0"), ((-0.1,), "decay"), ((0.9, 0), "every_n_steps = 0")]
)
def test_bad_values_are_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        EMA(*arguments)
