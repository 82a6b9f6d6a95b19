"""A set's images and prompts through the model, in a test epoch: what stands where in what later stages are fed."""

from __future__ import annotations

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn

from datamodules.common.torchvision_sets import FashionMNIST
from datamodules.zpe.pairs import StyledImages
from modules.zpe.networks import small_dual_encoder, unit
from modules.zpe.pretraining import Embeddings, ImageTextModel

VOCABULARY = """a an the of at in my for by to is all and photo picture new sale drawing sketch drawn ink outline pencil
blurry blurred unsharp out focus soft night dark dim unlit red green blue yellow white free stock image download rights
reserved click here see more uploaded user our shop offer get catalogue t-shirt trouser pullover dress coat
sandal shirt sneaker bag ankle boot"""


def test_texts_stand_by_prompt_and_class_and_images_by_row() -> None:
    """texts[p, c] is template p with the name of class c: there are 48 templates and 10 classes, so neither order of
    the two and no transpose passes. Each is compared with the one text that it must be."""
    torch.manual_seed(0)
    tower = nn.Sequential(nn.Flatten(), nn.Linear(3 * 28 * 28, 6))
    model = ImageTextModel(small_dual_encoder(tower, VOCABULARY, 6, 12, 1, 3)).eval()
    data = StyledImages(FashionMNIST(7, train_size=20, val_size=0, test_size=20), 7, "night")
    stage = Embeddings(model)
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.test(stage, datamodule=data, verbose=False)
    arrays, prompts = stage.artifacts(), data.prompts()

    assert arrays["texts"].shape == (48, 10, 6) == (len(prompts.pool), len(prompts.classes), 6)
    assert arrays["templates"].tolist() == list(prompts.pool)
    assert arrays["classes"].tolist() == list(prompts.classes)
    with torch.inference_mode():
        for p, c in ((0, 1), (1, 0), (7, 9), (39, 3)):
            text = prompts.pool[p].format(*[prompts.classes[c]] * prompts.pool[p].count("{}"))
            expected = unit(model.network.encode_texts(model.network.tokenize([text])))[0]
            assert np.allclose(arrays["texts"][p, c], expected.numpy(), atol=1e-5), text
        assert not np.allclose(arrays["texts"][0, 1], arrays["texts"][1, 0], atol=1e-3)
        x = torch.cat([batch.x for batch in data.test_dataloader()])
        assert np.allclose(arrays["images"], model(x).numpy(), atol=1e-5)
    assert arrays["labels"].tolist() == data.splits["test"]["y"].tolist()
    assert arrays["own"].nonzero()[0].tolist() == [prompts.pool.index(template) for template in prompts.own]
    assert arrays["planted"].sum() == 16
