"Distillation: the loss by its formula, teachers of every kind, and what is never saved."

import numpy as np
import pytest
import torch
from tiny import TinyNet, make_dls, make_pictures
from torch import nn
from torch.nn import functional as F

from vislearn.data.normalize import Normalize
from vislearn.data.sources import ImageDataLoaders
from vislearn.data.targets import Category, MultiCategory, Regression
from vislearn.learner import Learner, vision_learner
from vislearn.train.distill import Distill, Teacher
from vislearn.train.events import Callback
from vislearn.train.losses import LabelSmoothingCrossEntropy
from vislearn.train.mix import MixUp


class Seen(Callback):
    "Every training batch, with its loss."

    def __init__(self):
        self.batches = []

    def after_loss(self, learn):
        if learn.training:
            self.batches.append((learn.xb, learn.yb, learn.pred.detach(), learn.loss.detach()))


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp('colours'))


def learner(pictures, path, seed=0, **kwargs):
    torch.manual_seed(seed)
    return Learner(make_dls(pictures, path), TinyNet(), default_cbs=False, seed=0, precision='fp32', **kwargs)


@pytest.fixture(scope='module')
def teacher(pictures, tmp_path_factory):
    learn = learner(pictures, tmp_path_factory.mktemp('teacher'), seed=1)
    learn.fit(3, 1e-2)
    return learn


def answers(teacher, xb):
    with torch.no_grad():
        return teacher.model.eval()(xb)


def kl(pred, logits, T):
    q = (logits / T).softmax(1).double()
    p = (pred / T).softmax(1).double()
    return float((q * (q / p).log()).sum(1).mean() * T**2)


@pytest.mark.parametrize('mix', [[], [MixUp()]], ids=['plain', 'mixed'])
@pytest.mark.parametrize('loss', ['cross_entropy', LabelSmoothingCrossEntropy()], ids=['ce', 'smoothing'])
def test_loss_by_formula(pictures, teacher, tmp_path, mix, loss):
    seen = Seen()
    learn = learner(pictures, tmp_path, loss_func=loss, cbs=[Distill(teacher, alpha=0.7, T=3), *mix, seen])
    learn.fit(1, 1e-2)
    assert len(seen.batches) == len(learn.dls.train)
    for xb, yb, pred, got in seen.batches:
        want = 0.7 * kl(pred, answers(teacher, xb), T=3) + 0.3 * float(learn.loss_func(pred, yb))
        assert float(got) == pytest.approx(want, rel=1e-4)


def test_validation_is_by_labels_alone(pictures, teacher, tmp_path):
    learn = learner(pictures, tmp_path, cbs=Distill(teacher))
    learn.fit(1, 1e-2)
    probs, targs = learn.get_preds()
    nll = -probs[range(len(targs)), targs].log().mean()
    assert learn.history[-1]['valid_loss'] == pytest.approx(float(nll), rel=1e-4)


def test_without_labels_only_the_teacher_counts(pictures, teacher, tmp_path):
    seen = Seen()
    learn = learner(pictures, tmp_path, cbs=[Distill(teacher, T=2, labels=False), seen])
    batches = [(xb,) for xb, _ in learn.dls.train]
    learn.dls = [batches]
    learn.fit(1, 1e-2)
    for xb, yb, pred, got in seen.batches:
        assert yb is None and float(got) == pytest.approx(kl(pred, answers(teacher, xb), T=2), rel=1e-4)


def test_wrong_labels_do_no_harm_without_labels(pictures, teacher, tmp_path):
    learn = learner(pictures, tmp_path, cbs=Distill(teacher, T=2, labels=False))
    learn.dls.train.dataset.y = torch.zeros_like(learn.dls.train.dataset.y)
    learn.fit(6, 1e-2)
    assert learn.validate()[1] > 0.6


def test_an_export_and_a_module_teach_as_their_learner(pictures, tmp_path):
    dls = make_dls(pictures, tmp_path)
    teacher = vision_learner(dls, 'test_efficientnet', pretrained=False, precision='fp32', default_cbs=False)
    file = teacher.export('teacher.pkl')
    xb = dls.valid.one_batch()[0]
    want = answers(teacher, xb)
    for source in (teacher, teacher.model, file, str(file)):
        assert torch.allclose(Teacher(source)(xb), want, atol=1e-3), source
    assert Teacher(file).vocab == ['blue', 'green', 'red']


def test_the_teacher_is_frozen_folded_and_stays_as_it_was(pictures, teacher, tmp_path):
    before = {k: v.clone() for k, v in teacher.model.state_dict().items()}
    cb = Distill(teacher)
    learn = learner(pictures, tmp_path, cbs=cb)
    learn.fit(2, 1e-2)
    net = cb.teacher.net
    assert not any(isinstance(m, nn.BatchNorm2d) for m in net.net.modules())
    assert not any(p.requires_grad or p.grad is not None for p in net.parameters())
    assert not any(m.training for m in net.modules())
    assert all(torch.equal(v, before[k]) for k, v in teacher.model.state_dict().items())
    assert all(p.requires_grad for p in teacher.model.parameters())


def test_a_network_can_be_its_own_teacher(pictures, tmp_path):
    learn = learner(pictures, tmp_path)
    cb = Distill(learn, alpha=1, T=1)
    xb = learn.dls.one_batch()[0]
    before = answers(learn, xb)
    learn.fit(1, 1e-2, cbs=cb)
    assert torch.allclose(cb.teacher(xb), before, atol=1e-4) and not torch.allclose(answers(learn, xb), before)


def test_no_file_holds_the_teacher(pictures, tmp_path):
    big = TinyNet()
    big.body.append(nn.Conv2d(16, 16, 97, padding=48, groups=16))  # 600 KB
    learn = learner(pictures, tmp_path, cbs=Distill(big))
    learn.fit(1, 1e-2, checkpoint='run')
    learn.export(tmp_path / 'student.pkl')
    learn.save('student')
    files = [tmp_path / 'student.pkl', tmp_path / 'models/student.pth', tmp_path / 'runs/run/last.pth']
    assert all(f.stat().st_size < 200_000 for f in files), [f.stat().st_size for f in files]


def test_resume_gives_the_same_weights(pictures, teacher, tmp_path):
    def weights(learn):
        return torch.cat([p.detach().flatten() for p in learn.model.parameters()])

    whole = learner(pictures, tmp_path / 'whole', cbs=Distill(teacher))
    whole.fit(2, 1e-2, checkpoint='run')
    stop = learner(pictures, tmp_path / 'cut', cbs=Distill(teacher))

    class Stop(Callback):
        order = 99

        def before_epoch(self, learn):
            if learn.epoch == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop.fit(2, 1e-2, checkpoint='run', cbs=Stop())
    again = learner(pictures, tmp_path / 'cut', cbs=Distill(teacher))
    again.resume('run')
    assert torch.equal(weights(again), weights(whole))
    with pytest.warns(UserWarning, match='distill'):
        learner(pictures, tmp_path / 'cut').resume('run')


def test_each_network_sees_pictures_normalised_as_it_needs(tmp_path):
    xs = np.random.default_rng(0).integers(0, 255, (16, 8, 8, 3), dtype=np.uint8)
    ys = ['a', 'b'] * 8

    def made(mean, std):
        dls = ImageDataLoaders.from_arrays(
            xs, ys, path=tmp_path, bs=4, seed=0, num_workers=0, device='cpu', batch_tfms=Normalize(mean, std)
        )
        net = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
        return Learner(dls, net, default_cbs=False, precision='fp32')

    teacher = made([0.5, 0.4, 0.3], [0.2, 0.3, 0.4])
    cb = Distill(teacher)
    student = made([0.1, 0.2, 0.3], [1.0, 0.5, 0.25])
    cb.teacher.receive_from(student.dls.train, student.device)
    ours = student.dls.valid.one_batch()[0]
    theirs = teacher.dls.valid.one_batch()[0]
    assert torch.allclose(cb.teacher(ours), answers(teacher, theirs), atol=1e-4)


def test_other_labels_are_refused(pictures, teacher, tmp_path):
    xs = np.zeros((12, 32, 32, 3), np.uint8)
    dls = ImageDataLoaders.from_arrays(xs, ['x', 'y', 'z'] * 4, path=tmp_path, bs=4, num_workers=0, device='cpu')
    learn = Learner(dls, TinyNet(), cbs=Distill(teacher), default_cbs=False)
    with pytest.raises(ValueError, match=r"'blue'.*'x'.*same order"):
        learn.fit(1)
    assert learn.history == []


def test_features_have_no_teacher(pictures, teacher, tmp_path):
    from vislearn.models.vision_model import VisionModel

    learn = learner(pictures, tmp_path)
    learn.model = VisionModel(learn.model.body, learn.model.head)
    with pytest.raises(ValueError, match='fit_head trains on features'):
        learn.fit_head(1, cbs=Distill(teacher))


def test_soft_loss_of_each_target():
    g = torch.Generator().manual_seed(0)
    pred, logits = torch.randn(5, 3, generator=g), torch.randn(5, 3, generator=g)
    assert float(Category().soft_loss(pred, logits, 2.0)) == pytest.approx(kl(pred, logits, 2), rel=1e-5)
    q, p = (logits / 2).sigmoid(), (pred / 2).sigmoid()
    by_hand = (q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()).mean() * 4
    assert float(MultiCategory().soft_loss(pred, logits, 2.0)) == pytest.approx(float(by_hand), rel=1e-4)
    assert float(Regression().soft_loss(pred, logits, 2.0)) == pytest.approx(float(F.mse_loss(pred, logits)))
    for target in (Category(), MultiCategory(), Regression()):
        assert float(target.soft_loss(pred, pred, 3.0)) == pytest.approx(0, abs=1e-6)


class Asked(nn.Module):
    "A teacher that counts the pictures it was asked about."

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.n = 0

    def forward(self, xb):
        self.n += len(xb)
        return self.net(xb)


@pytest.mark.parametrize('mix', [False, True], ids=['plain', 'mixed'])
@pytest.mark.parametrize('tfms', ['none', 'flip'])
def test_a_teacher_is_asked_once_about_pictures_that_stay_the_same(pictures, teacher, tmp_path, tfms, mix):
    from vislearn.data.geometry import Flip
    from vislearn.data.resize import Resize

    dls = ImageDataLoaders.from_folder(
        pictures,
        valid_pct=0.2,
        seed=0,
        bs=8,
        item_tfms=Resize(32, method='squish', where='center'),
        batch_tfms=Flip() if tfms == 'flip' else None,
        num_workers=0,
        device='cpu',
        drop_last=False,
    )
    cb, seen = Distill(teacher, alpha=1, T=2), Seen()
    cb.teacher.net = asked = Asked(cb.teacher.net)
    cbs = [cb, seen, *[MixUp()] * mix]
    learn = Learner(dls, TinyNet(), default_cbs=False, seed=0, precision='fp32', cbs=cbs, path=tmp_path)
    learn.fit(3, 1e-2)
    n = dls.train.n
    assert asked.n == (n if tfms == 'none' and not mix else 3 * n)
    for xb, _, pred, got in seen.batches:
        assert float(got) == pytest.approx(kl(pred, answers(teacher, xb), T=2), rel=1e-4)


def feature_learner(pictures, path, cbs=()):
    dls = make_dls(pictures, path)
    options = dict(pretrained=False, precision='fp32', default_cbs=False, seed=0)
    return vision_learner(dls, 'test_resnet', cbs=list(cbs), **options)


@pytest.fixture(scope='module')
def big_teacher(pictures, tmp_path_factory):
    dls = make_dls(pictures, tmp_path_factory.mktemp('big'))
    return vision_learner(dls, 'test_efficientnet', pretrained=False, precision='fp32', default_cbs=False, seed=1)


def test_features_are_drawn_towards_the_teachers(pictures, big_teacher, tmp_path):
    cb = Distill(big_teacher, alpha=0.5, T=2, features=3.0)
    losses = []

    class Look(Callback):
        def after_pred(self, learn):
            if not learn.training:
                return
            body = big_teacher.model.eval().body
            with torch.no_grad():
                self.want = body(learn.xb).mean((2, 3))

        def after_loss(self, learn):
            if not learn.training:
                return
            mse = F.mse_loss(cb.projection.layer(cb.body_out.mean((2, 3))), self.want)
            labels = F.cross_entropy(learn.pred, learn.yb)
            soft = kl(learn.pred.detach(), answers(big_teacher, learn.xb), T=2)
            assert float(learn.loss.detach()) == pytest.approx(
                0.5 * soft + 0.5 * float(labels.detach()) + 3 * float(mse.detach()), rel=1e-3
            )
            losses.append(float(mse.detach()))

    learn = feature_learner(pictures, tmp_path, [cb, Look()])
    learn.fit(4, 3e-3)
    assert np.mean(losses[-3:]) < 0.7 * np.mean(losses[:3])
    assert cb.projection.layer.weight.shape == (
        big_teacher.model.body(learn.dls.one_batch()[0]).shape[1],
        learn.model.body(learn.dls.one_batch()[0]).shape[1],
    )
    assert not learn.model.body._forward_hooks and not any('project' in k for k in learn.model.state_dict())


def test_resume_with_features_gives_the_same_weights(pictures, big_teacher, tmp_path):
    def weights(learn):
        return torch.cat([p.detach().flatten() for p in learn.model.parameters()])

    class Stop(Callback):
        order = 99

        def before_epoch(self, learn):
            if learn.epoch == 1:
                raise KeyboardInterrupt

    whole = feature_learner(pictures, tmp_path / 'whole', [Distill(big_teacher, features=1.0)])
    whole.fit(2, 1e-3, checkpoint='run')
    stopped = feature_learner(pictures, tmp_path / 'cut', [Distill(big_teacher, features=1.0)])
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(2, 1e-3, checkpoint='run', cbs=Stop())
    again = feature_learner(pictures, tmp_path / 'cut', [Distill(big_teacher, features=1.0)])
    again.resume('run')
    assert torch.equal(weights(again), weights(whole))


def test_features_need_a_body_and_a_head(pictures, big_teacher, tmp_path):
    with pytest.raises(TypeError, match='a teacher with a body and a head'):
        Distill(nn.Linear(2, 2), features=1.0)
    with pytest.raises(ValueError, match='features is a weight'):
        Distill(big_teacher, features=-1.0)


def test_a_teacher_from_a_configuration(pictures, big_teacher, tmp_path):
    from vislearn.app.config import build, phases, run_phase

    file = big_teacher.export(tmp_path / 'teacher.pkl')
    data = {'path': str(pictures), 'valid_pct': 0.2, 'seed': 0, 'bs': 8, 'device': 'cpu'}
    cbs = [{'type': 'Distill', 'teacher': str(file), 'T': 2.0, 'features': 0.5}, 'MixUp']
    cfg = {
        'data': data | {'item_tfms': {'type': 'Resize', 'size': 32}},
        'learner': {'arch': 'test_resnet', 'pretrained': False, 'cbs': cbs, 'default_cbs': False},
        'fit': {'type': 'fit_one_cycle', 'n_epoch': 1},
    }
    _, learn = build(cfg)
    run_phase(learn, phases(cfg)[0])
    assert len(learn.history) == 1 and learn.cbs[-1].name != 'distill'
