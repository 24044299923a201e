"Interpretation on a tiny learner: what is counted, kept, drawn and refused."

import io
import math
import sys
from types import SimpleNamespace

import matplotlib

matplotlib.use('agg')
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vislearn.data.dataset import Dataset
from vislearn.data.loaders import DataLoaders, Loader
from vislearn.data.normalize import Normalize
from vislearn.data.resize import ItemPipeline
from vislearn.data.targets import Category, MultiCategory, Regression
from vislearn.deploy.peek import describe_model
from vislearn.interpret import calibrate, cam, plots
from vislearn.interpret import embed as embedding
from vislearn.interpret.interpretation import ClassificationInterpretation, Interpretation
from vislearn.learner import Learner, load_learner
from vislearn.table import Table
from vislearn.train.metrics import best_threshold, f1_score


class Net(nn.Module):
    "A frozen body and a linear head."

    def __init__(self, c):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(inplace=True)).requires_grad_(False)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, c))

    def forward(self, x):
        return self.head(self.body(x))


def pictures(n, seed=0):
    return list((torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 255).byte())


def make(target, y, n_train=12, **kw):
    xs = pictures(len(y))

    def ds(a, b, name):
        return Dataset(xs[a:b], y[a:b], target, ItemPipeline([]), name=name, **kw)

    dls = DataLoaders(
        Loader(ds(0, n_train, 'training'), 4, True, True, num_workers=0, device='cpu', seed=0),
        Loader(ds(n_train, len(y), 'validation'), 8, num_workers=0, device='cpu', seed=0),
    )
    return Learner(dls, Net(target.c or 1), default_cbs=False)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close('all')


@pytest.fixture
def single():
    names = ['ants', 'bees', 'american_staffordshire_bull_terrier']
    return make(Category(names), torch.arange(40) % 3)


@pytest.fixture
def multi():
    return make(
        MultiCategory(['cat', 'dog', 'tree']),
        (torch.rand(40, 3, generator=torch.Generator().manual_seed(1)) < 0.4).float(),
    )


def drawn(method, *args, **kwargs):
    """The Axes with something in them that a method draws; it returns nothing, so that a notebook shows only the
    picture.
    """
    plt.close('all')
    assert method(*args, **kwargs) is None
    return [ax for ax in plt.gcf().axes if ax.images or ax.lines or ax.collections]


def test_one_pass_is_made_and_pictures_are_not_kept(single):
    passes = []
    get_preds = single.get_preds
    single.get_preds = lambda **kw: passes.append(kw) or get_preds(**kw)
    i = ClassificationInterpretation.from_learner(single)
    i.confusion_matrix()
    i.most_confused()
    i.top_losses()
    i.class_table()
    i.plot_calibration()
    i.plot_pr_curve()
    i.wrong()
    assert len(passes) == 1
    kept = [v for v in vars(i).values() if isinstance(v, torch.Tensor)]
    assert sum(v.numel() for v in kept) <= len(i) * (3 + 1 + 1)


def test_numbers_agree_with_each_other(single):
    i = ClassificationInterpretation.from_learner(single)
    y, t = i.preds.argmax(1), i.targs
    cm = i.confusion_matrix()
    assert (
        cm.sum() == len(i) == 28
        and cm.trace() == (y == t).sum()
        and (cm.sum(1) == torch.bincount(t, minlength=3).numpy()).all()
    )
    torch.testing.assert_close(i.losses, F.cross_entropy(i.preds.log(), t, reduction='none'), atol=1e-4, rtol=1e-4)
    losses, idxs, items = i.top_losses(3, items=True)
    assert torch.equal(losses, i.losses.sort(descending=True).values[:3]) and torch.equal(
        items[0], i.items[int(idxs[0])]
    )
    assert torch.equal(i.top_losses(largest=False)[0], i.losses.sort().values)
    pairs = i.most_confused()
    assert [n for *_, n in pairs] == sorted((n for *_, n in pairs), reverse=True) and sum(
        n for *_, n in pairs
    ) == cm.sum() - cm.trace()
    assert i.most_confused(min_val=10**6) == []
    table = i.class_table()
    assert table.column('support') == cm.sum(1).tolist() and len(table.frame()) == 3

    def close(a, b):
        return math.isclose(float(a), float(b), abs_tol=1e-5)

    assert close(np.mean(table.column('f1')), f1_score(i.preds, t, average='macro'))


def test_report_prints_every_class(single, capsys):
    i = ClassificationInterpretation.from_learner(single)
    i.print_classification_report()
    out = capsys.readouterr().out
    assert all(v in out for v in (*i.vocab, 'accuracy', 'macro avg', 'weighted avg'))
    assert f'{float((i.decided == i.targs).float().mean()):.3f}' in out


def test_training_items_are_judged_under_the_validation_pipeline(single):
    flips = []
    single.dls.train.dataset.item_tfms = ItemPipeline([lambda im: flips.append(1) or im])
    a, b = (ClassificationInterpretation.from_learner(single, ds_idx=0) for _ in range(2))
    c = ClassificationInterpretation.from_learner(single, dl=single.dls.train)
    assert not flips and len(a) == 12 and torch.equal(a.preds, b.preds) and torch.equal(a.preds, c.preds)
    assert torch.equal(a.targs, single.dls.train.dataset.y)


def test_a_shuffled_loader_is_read_in_order(single):
    dl = single.dls.valid.new(shuffle=True, drop_last=True)
    i = ClassificationInterpretation.from_learner(single, dl=dl)
    assert len(i) == 28 and torch.equal(i.targs, dl.dataset.y)


def test_a_list_of_batches_has_no_pictures_but_numbers(single):
    batches = [*single.dls.valid]
    i = ClassificationInterpretation.from_learner(single, dl=batches)
    assert i.confusion_matrix().sum() == 28
    with pytest.raises(AttributeError, match='no items'):
        i.plot_top_losses(2)


def test_skipped_pictures_do_not_shift_the_items(single):
    ds = single.dls.valid.dataset
    ds.bad_images, ds.max_bad = 'skip', 0.5
    ds.items[3] = b'not a picture'
    with pytest.warns(UserWarning, match='skipping'):
        i = ClassificationInterpretation.from_learner(single)
    assert len(i) == len(i.items) == 27 and torch.equal(i.items[3], ds.items[4]) and int(i.targs[3]) == int(ds.y[4])
    torch.testing.assert_close(i.picture(3), ds.items[4].float() / 255)
    assert i.find_similar(3, 1)[0]['position'] != 3 and len(i.embeddings) == 27


def test_loaders_from_before_the_learner_are_normalised_as_the_network_needs_it(single):
    raw = single.dls
    raw.valid.dataset.bad_images, raw.valid.dataset.max_bad = 'skip', 0.5
    raw.valid.dataset.items[3] = b'not a picture'
    single.input_norm = Normalize([0.5] * 3, [0.1] * 3)
    single.dls = raw
    with pytest.warns(UserWarning, match='skipping'):
        i = ClassificationInterpretation.from_learner(single, dl=raw.valid)
        usual = ClassificationInterpretation.from_learner(single)
    assert len(i.items) == 27 and torch.equal(i.preds, usual.preds)
    assert torch.equal(i.embeddings, usual.embeddings) and torch.equal(i.cam([0])[0], usual.cam([0])[0])
    torch.testing.assert_close(i.picture(3), raw.valid.dataset.items[4].float() / 255)


def test_looking_leaves_every_module_in_the_mode_it_was_in(single):
    i = ClassificationInterpretation.from_learner(single)
    model = single.model.train()
    model.head[1].eval()
    before = [m.training for m in model.modules()]
    i.embeddings, i.cam([0])
    assert [m.training for m in model.modules()] == before


def test_pictures_with_heat_are_opened_once(single, monkeypatch):
    i = ClassificationInterpretation.from_learner(single)
    opened = []
    load = i.dl.load
    monkeypatch.setattr(i.dl, 'load', lambda idxs, *args: opened.extend(idxs) or load(idxs, *args))
    drawn(i.plot_cam, [3, 5])
    drawn(i.show_results, [4, 6], cam=True)
    assert opened == [3, 5, 4, 6]


def test_several_labels(multi):
    i = ClassificationInterpretation.from_learner(multi)
    cm = i.confusion_matrix()
    assert cm.shape == (3, 2, 2) and (cm.sum((1, 2)) == 28).all()
    y, t = i.preds > 0.5, i.targs > 0.5
    assert cm[1].tolist() == [
        [int((~t & ~y)[:, 1].sum()), int((~t & y)[:, 1].sum())],
        [int((t & ~y)[:, 1].sum()), int((t & y)[:, 1].sum())],
    ]
    assert len(drawn(i.plot_confusion_matrix)) == 3
    a, p, n = (i.most_confused() or [('cat', 'dog', 0)])[0]
    assert n == int(((t & ~y)[:, i.vocab.index_of(a)] & (~t & y)[:, i.vocab.index_of(p)]).sum())
    assert len(drawn(i.plot_top_losses, 3)) == 3
    assert len(drawn(i.plot_thresholds)) == 3
    assert len(drawn(i.plot_confident_wrong, 2)) == 2
    i.print_classification_report()
    for method in (i.plot_pr_curve, i.plot_roc_curve, i.plot_calibration):
        assert len(drawn(method)) == 1


def test_thresholds_are_used_by_the_learner(multi):
    i = ClassificationInterpretation.from_learner(multi)
    before = f1_score(i.decided.float(), i.targs, logits=False)
    th = i.use_thresholds()
    assert len(th) == 3 and multi.dls.target.thresh == th
    assert f1_score(i.decided.float(), i.targs, logits=False) > before
    for j in range(3):
        best = max(
            float(f1_score(i.preds[:, j : j + 1], i.targs[:, j : j + 1], thresh=float(v) - 1e-6, logits=False))
            for v in i.preds[:, j]
        )
        assert math.isclose(
            float(f1_score(i.preds[:, j : j + 1], i.targs[:, j : j + 1], thresh=th[j], logits=False)),
            best,
            abs_tol=1e-6,
        )
    assert isinstance(i.best_thresholds(per_label=False), float)
    with pytest.raises(ValueError, match='3 labels'):
        i.use_thresholds([0.5])


def test_thresholds_are_for_several_labels(single):
    with pytest.raises(TypeError, match='several labels'):
        ClassificationInterpretation.from_learner(single).best_thresholds()


@pytest.mark.parametrize('kind', ['single', 'multi'])
def test_calibration_changes_the_model_and_no_answer(kind, request):
    learn = request.getfixturevalue(kind)
    z, ds = learn.get_preds(act=lambda p: p)[0], learn.dls.valid.dataset
    wrong = torch.arange(28) % 4 == 0  # it is right three times in four
    ds.y = (z.argmax(1) + wrong) % 3 if kind == 'single' else ((z > 0) ^ wrong[:, None]).float()
    for p in learn.model.head[-1].parameters():
        p.data.mul_(20.0)  # and then it is made to boast
    i = ClassificationInterpretation.from_learner(learn)
    before, logits = i.decided, learn.get_preds(act=lambda p: p)[0]
    t = i.calibrate()
    assert t > 1.5 and torch.equal(i.decided, before) and math.isclose(i.temperature(), 1.0, abs_tol=0.02)
    torch.testing.assert_close(
        learn.get_preds(act=lambda p: p)[0], logits / t, atol=0.02, rtol=0.04
    )  # bf16 where that is fast


def test_a_calibrated_learner_answers_alike_wherever_it_is_loaded(single, tmp_path):
    single.dls.valid.dataset.y = single.get_preds()[0].argmax(1)  # all answers are right, but hardly sure
    before = single.get_preds()[0]
    loss = F.nll_loss(before.log(), single.dls.valid.dataset.y)
    t = single.calibrate()
    probs, targs = single.get_preds()
    assert t < 0.9 and F.nll_loss(probs.log(), targs) < loss and torch.equal(probs.argmax(1), before.argmax(1))
    assert single.calibrated == {'temperature': t, 'pictures': 28}
    loaded = load_learner(single.export(tmp_path / 'a.pkl'), model=Net(3))
    torch.testing.assert_close(loaded.get_preds(dl=single.dls.valid)[0], probs)
    assert loaded.calibrated == describe_model(tmp_path / 'a.pkl')['notes']['calibrated'] == single.calibrated
    assert 'temperature' in single.card() and f'fitted on {28} pictures' in single.card()
    single.lr_find(num_it=2, show_plot=False, suggest_funcs=None)
    assert single.calibrated
    single.fit(1, 1e-3)
    assert single.calibrated is None  # the weights are no longer those that it was fitted for


def test_calibration_moves_thresholds_so_that_answers_stay(multi):
    multi.dls.target.set_thresh([0.3, 0.5, 0.8])
    with torch.no_grad():
        multi.model.head[-1].weight.mul_(30.0)
    before = multi.dls.target.decide(multi.get_preds()[0])
    t = multi.calibrate()
    assert t > 1.5 and torch.equal(multi.dls.target.decide(multi.get_preds()[0]), before)
    assert multi.dls.target.thresh[0] > 0.3 and multi.dls.target.thresh[1] == 0.5


def test_what_cannot_be_calibrated_is_said(single):
    with pytest.raises(TypeError, match='has no probabilities that could be calibrated'):
        make(Regression(1), torch.rand(40)).calibrate()
    with pytest.raises(ValueError, match='no labels to fit a temperature by'):
        single.calibrate(dl=single.dls.test_dl(pictures(4)))


def test_numbers_have_losses_but_no_classes():
    learn = make(Regression(1), torch.rand(40))
    i = Interpretation.from_learner(learn)
    assert len(drawn(i.plot_top_losses, 4)) == 4
    assert i.texts(0)[3] == '' and len(i.find_similar(0, 2)) == 2
    assert len(drawn(i.plot_embeddings)) == 1
    with pytest.raises(TypeError, match='predicts numbers'):
        ClassificationInterpretation.from_learner(learn)


class MeanOnly(nn.Module):
    "A loss that knows no `reduction`, like timm's."

    def forward(self, pred, targ):
        return F.cross_entropy(pred, targ)


@pytest.mark.parametrize('loss', [lambda pred, targ: F.cross_entropy(pred, targ), MeanOnly()], ids=['lambda', 'module'])
def test_losses_without_reduction_are_taken_item_by_item(single, loss):
    expected = ClassificationInterpretation.from_learner(single).losses
    single.loss_func = loss
    i = ClassificationInterpretation.from_learner(single)
    torch.testing.assert_close(i.losses, expected)
    assert i.top_losses(1)[1] == expected.argmax()


@pytest.mark.parametrize('stdout', ['missing', 'closed', 'only write', 'ascii'])
def test_reports_are_printed_whatever_stands_behind_stdout(single, monkeypatch, stdout):
    i = ClassificationInterpretation.from_learner(single)
    vocab = single.dls.target.vocab
    vocab[0] = 'a very long label that is cut in the middle to fit, and an é'
    raw = io.BytesIO()
    written = []
    out = io.TextIOWrapper(raw, encoding='ascii')
    if stdout == 'missing':
        out = None
    if stdout == 'closed':
        out.close()
    if stdout == 'only write':
        out = SimpleNamespace(write=written.append)
    monkeypatch.setattr(sys, 'stdout', out)
    i.print_classification_report()
    table = repr(i.class_table())
    vocab[0] = 'ants'
    fresh = ClassificationInterpretation.from_learner(single)
    monkeypatch.undo()
    assert len(fresh) == 28
    if stdout == 'only write':
        assert 'weighted avg' in ''.join(written)
    if stdout == 'ascii':
        text = raw.getvalue().decode('ascii')
        assert 'weighted avg' in text and 'a very long label' in text and '...' in text
        assert '…' not in table


def test_without_labels_there_is_nothing_to_judge(single):
    dl = single.dls.test_dl(pictures(5))
    i = Interpretation.from_learner(single, dl=dl)
    assert i.targs is None and len(i.embeddings) == 5
    assert len(drawn(i.show_results, [0, 1])) == 2
    with pytest.raises(ValueError, match='no labels'):
        i.top_losses(2)
    with pytest.raises(ValueError, match='no labels'):
        ClassificationInterpretation.from_learner(single, dl=dl)


def texts_overlap(fig):
    "Pairs of visible tick labels and titles that overlap on paper."
    fig.canvas.draw()
    r = fig.canvas.get_renderer()
    texts = [
        t
        for ax in fig.axes
        for t in (*ax.get_xticklabels(), *ax.get_yticklabels(), ax.title, ax.xaxis.label, ax.yaxis.label)
        if ax.axison and t.get_text() and t.get_visible()
    ]
    texts += [ax.title for ax in fig.axes if not ax.axison and ax.title.get_text()] + [t for t in [fig._suptitle] if t]
    boxes = [t.get_window_extent(r).shrunk(0.98, 0.9) for t in texts]
    return [
        (texts[i].get_text(), texts[j].get_text())
        for i in range(len(boxes))
        for j in range(i)
        if boxes[i].overlaps(boxes[j])
    ]


def invent(c, n):
    g = torch.Generator().manual_seed(0)
    t = torch.randint(c, (n,), generator=g)
    return (F.one_hot(t, c) * 3 + torch.randn(n, c, generator=g)).softmax(1), t


@pytest.mark.parametrize(
    'c, normalize',
    [(2, False), (2, True), (7, 'pred'), (7, False), (25, True), (40, False), (60, True), (61, True), (300, 'pred')],
)
def test_confusion_is_readable_at_any_size(c, normalize):
    p, t = invent(c, c * 20)
    names = [f'a rather long class name, number {i}' for i in range(c)]
    ax = plots.plot_confusion(plots.confusion(t, p.argmax(1), c), names, normalize=normalize)
    assert not texts_overlap(ax.figure)
    for text in ax.texts:
        assert text.get_fontsize() >= 4.5
    assert (len(ax.get_xticklabels()) == c) == (c <= 60)
    w, h = ax.figure.get_size_inches()
    assert w < 15 and h < 15


def test_numbers_stay_in_their_cells():
    cm = np.full((12, 12), 123456)
    ax = plots.plot_confusion(cm, range(12))
    ax.figure.canvas.draw()
    cell = ax.get_window_extent().width / 12
    assert ax.texts and all(t.get_window_extent().width <= cell for t in ax.texts)


def test_plots_use_the_axes_they_are_given(single, monkeypatch):
    monkeypatch.setattr(plt, 'show', lambda *a, **k: pytest.fail('show was called'))
    i = ClassificationInterpretation.from_learner(single)
    for name in 'plot_confusion_matrix', 'plot_pr_curve', 'plot_roc_curve', 'plot_calibration', 'plot_embeddings':
        fig, ax = plt.subplots()
        getattr(i, name)(ax=ax)
        assert ax.images or ax.lines or ax.collections, name
        assert len(plt.get_fignums()) == 1, name
        assert drawn(getattr(i, name), figsize=(4, 3))[0].figure.get_size_inches().tolist() == [4, 3], name
        plt.close('all')
    for name, arg in (
        ('plot_top_losses', 2),
        ('plot_confident_wrong', 2),
        ('show_results', [0, 1]),
        ('plot_cam', [0, 1]),
        ('plot_similar', 0),
    ):
        fig, axs = plt.subplots(2, 4)
        assert getattr(i, name)(arg, axs=axs) is None, name
        assert axs[0, 0].images and len(plt.get_fignums()) == 1, name
        plt.close(fig)
    i.preds = F.one_hot(i.targs, 3).float()
    assert len(i.wrong()) == 0 and drawn(i.plot_confident_wrong) == []
    with pytest.raises(ValueError, match='need 5 Axes'):
        i.plot_top_losses(5, axs=[plt.subplots()[1]])


def test_titles_of_top_losses_do_not_overlap(single):
    i = ClassificationInterpretation.from_learner(single)
    for kw in dict(k=5, nrows=1), dict(k=9), dict(k=5, nrows=1, figsize=(9, 2.4)):
        assert not texts_overlap(drawn(i.plot_top_losses, **kw)[0].figure), kw
    titles = [ax.get_title() for ax in drawn(i.plot_top_losses, 4)]
    assert [ax.get_title() for ax in drawn(i.plot_top_losses, range(2, 4))] == titles[2:]


def test_sub_matrix_of_the_most_confused():
    cm = np.diag([50] * 30)
    cm[3, 17] = cm[17, 3] = 9
    cm[5, 6] = 4
    assert plots.confused_classes(cm, 4) == [3, 17, 5, 6] and len(plots.confused_classes(cm, 30)) == 30


def test_cam_is_the_same_frozen_or_not_and_leaves_no_trace(single):
    xb = torch.rand(2, 3, 16, 16)
    single.model.train()
    frozen, _ = cam.grad_cam(single.model, xb, [0, 1])
    single.model.requires_grad_(True)
    free, labels = cam.grad_cam(single.model, xb, [0, 1])
    torch.testing.assert_close(frozen, free)
    assert frozen.shape == (2, 16, 16) and float(frozen.max()) == 1 and labels.tolist() == [0, 1]
    assert single.model.training and all(p.grad is None for p in single.model.parameters())
    assert not any(m._forward_hooks for m in single.model.modules())
    heat, _ = cam.grad_cam(single.model, xb, [0, 1], layer=single.model.body[0])
    assert heat.shape == (2, 16, 16)


def test_cam_finds_what_decides():
    net = Net(2)
    net.body = nn.Conv2d(3, 1, 4, 4, bias=False)
    net.body.weight.data.fill_(1 / 48)  # brightness
    net.head[-1] = nn.Linear(1, 2)
    net.head[-1].weight.data = torch.tensor([[-1.0], [1.0]])
    x = torch.zeros(1, 3, 32, 32)
    x[..., 16:, :16] = 1
    heat, _ = cam.grad_cam(net, x, [1])
    assert heat[0, 20:28, 4:12].min() > 0.5 and heat[0, :12, 20:].max() < 0.05
    assert float(cam.grad_cam(net, x, [0])[0].max()) == 0  # brightness never speaks for label 0


def test_embeddings_with_and_without_a_body(single):
    xb = torch.rand(3, 3, 16, 16)
    torch.testing.assert_close(embedding.embed(single.model, [(xb,)]), single.model.eval().body(xb).mean((2, 3)))
    plain = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2))
    torch.testing.assert_close(embedding.embed(plain, [(xb,), (xb,)]), plain[:3](xb).repeat(2, 1))


def test_similar_finds_itself_and_leaves_itself_out(single):
    i = ClassificationInterpretation.from_learner(single)
    assert i.find_similar(i.items[5], 1)[0]['position'] == 5 and 5 not in i.find_similar(5, 27).column('position')
    assert len(drawn(i.plot_similar, 5, k=3)) == 4


def test_pca_is_the_same_whatever_the_sign():
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([5.0, 3, 1, 0.1, 0.1, 0.1])
    xy, share = embedding.pca(x)
    u, s, v = torch.linalg.svd((x - x.mean(0)).double())
    torch.testing.assert_close(xy.abs(), (u[:, :2] * s[:2]).abs().float(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(share, (s[:2] ** 2 / (s**2).sum()).float(), atol=1e-5, rtol=1e-4)


def test_temperature_is_found():
    g = torch.Generator().manual_seed(0)
    z = torch.randn(4000, 5, generator=g) * 2
    t = torch.multinomial(z.softmax(1), 1, generator=g)[:, 0]
    assert math.isclose(calibrate.fit_temperature((3 * z).softmax(1), t), 3, rel_tol=0.08) and math.isclose(
        calibrate.fit_temperature((z / 2).softmax(1), t), 0.5, rel_tol=0.08
    )
    m = (torch.rand(4000, 5, generator=g) < z.sigmoid()).float()
    assert math.isclose(calibrate.fit_temperature((3 * z).sigmoid(), m), 3, rel_tol=0.08)
    sure = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # no infinities, whatever the probabilities
    assert (
        math.isfinite(calibrate.fit_temperature(sure, torch.tensor([0, 0])))
        and calibrate.rescale(sure, 2.0).isfinite().all()
    )


def test_the_temperature_is_the_one_with_the_lowest_loss():
    g = torch.Generator().manual_seed(0)
    z = torch.randn(500, 4, generator=g)
    targs = torch.multinomial(z.softmax(1), 1, generator=g)[:, 0]
    probs = (3 * z).softmax(1)
    t = calibrate.fit_temperature(probs, targs)
    log_t = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    opt = torch.optim.LBFGS([log_t], max_iter=100, tolerance_grad=1e-12, line_search_fn='strong_wolfe')

    def loss():
        opt.zero_grad()
        value = F.cross_entropy(probs.double().log() / log_t.exp(), targs)
        value.backward()
        return value

    opt.step(loss)
    assert math.isclose(t, log_t.exp().item(), rel_tol=1e-5)


def test_a_label_that_never_occurs_keeps_its_threshold():
    assert best_threshold(torch.rand(5), torch.zeros(5)) == 0.5


def test_curves_leave_out_classes_without_examples():
    p, t = invent(4, 60)
    p5 = F.pad(p, (0, 1))
    ax = plots.plot_pr(p5, t, list('abcde'))
    assert len(ax.get_legend().get_texts()) == 4
    assert len(plots.plot_roc(p5, t, list('abcde'), labels=['b']).get_legend().get_texts()) == 1


def test_tables_print_and_escape():
    t = Table([dict(name='<b>x', n=i, v=0.5, gone=None) for i in range(50)])
    assert '&lt;b&gt;x' in t._repr_html_() and '<b>' not in t._repr_html_() and 'and 10 more rows' in str(t)
    assert str(Table([], ['a'])) == 'Table(no rows)' and isinstance(t[:3], Table) and t[0]['n'] == 0


def test_table_to_csv(tmp_path):
    f = Table([dict(a=1, b='x,y')]).to_csv(tmp_path / 't.csv')
    assert f.read_text().splitlines() == ['a,b', '1,"x,y"']
