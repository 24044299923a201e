"The metrics against counting by hand and against torchmetrics' own entry points on random data, and their edges."

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
import torchmetrics.functional as tm

from vislearn.train import metrics as m


def single(c, n=200, seed=0):
    g = torch.Generator().manual_seed(seed)
    targs = torch.randint(c, (n,), generator=g)
    return F.one_hot(targs, c) * 1.5 + torch.randn(n, c, generator=g), targs


def multi(c=5, n=200, seed=0):
    g = torch.Generator().manual_seed(seed)
    targs = (torch.rand(n, c, generator=g) < 0.3).float()
    return targs * 1.5 - 0.7 + torch.randn(n, c, generator=g), targs


def close(a, b):
    torch.testing.assert_close(torch.as_tensor(a).float(), torch.as_tensor(b).float(), atol=1e-5, rtol=1e-4)


def by_hand(yes, truth, average, beta=1.0):
    "Precision, recall and F-beta of 0/1 answers (n,c), counted class by class."
    if average == 'micro':
        yes, truth = yes.reshape(-1, 1), truth.reshape(-1, 1)
    if average == 'samples':
        yes, truth = yes.T, truth.T
    rows = []
    for y, t in zip(yes.bool().T, truth.bool().T):
        tp, fp, fn = int((y & t).sum()), int((y & ~t).sum()), int((~y & t).sum())
        rows.append(
            [
                tp / max(1, tp + fp),
                tp / max(1, tp + fn),
                (1 + beta**2) * tp / max(1, (1 + beta**2) * tp + beta**2 * fn + fp),
            ]
        )
    scores, n = torch.tensor(rows), truth.sum(0).float()  # (c,3)
    return (
        scores.T
        if average == 'none'
        else (scores * n[:, None]).sum(0) / n.sum()
        if average == 'weighted'
        else scores.mean(0)
    ).unbind()


def pairs_in_order(scores, truth):
    "The chance that something there gets a higher score than something not there."
    d = scores[truth.bool()][:, None] - scores[~truth.bool()]
    return (d > 0).float().mean() + (d == 0).float().mean() / 2


@pytest.mark.parametrize('c', [2, 3, 10])
@pytest.mark.parametrize('average', ['macro', 'micro', 'weighted', 'none'])
def test_single_label_scores_are_what_counting_gives(c, average):
    p, t = single(c)
    answers = F.one_hot(p.argmax(1), c), F.one_hot(t, c)
    for f, truth in zip((m.precision_score, m.recall_score, m.f1_score), by_hand(*answers, average)):
        close(f(p, t, average=average), truth)
    close(m.fbeta_score(p, t, beta=2.0, average=average), by_hand(*answers, average, 2.0)[2])


@pytest.mark.parametrize('average', ['macro', 'micro', 'weighted', 'samples', 'none'])
@pytest.mark.parametrize('c', [1, 5])
def test_multi_label_scores_are_what_counting_gives(average, c):
    p, t = multi(c)
    thresh = [0.4, 0.5, 0.3, 0.6, 0.5][:c]
    for f, truth in zip(
        (m.precision_score, m.recall_score, m.f1_score), by_hand(p.sigmoid() > torch.tensor(thresh), t, average)
    ):
        close(f(p, t, average=average, thresh=thresh), truth)


@pytest.mark.parametrize('average', ['macro', 'micro', 'weighted', 'none'])
def test_multi_label_areas_equal_torchmetrics(average):
    p, t = multi()
    for ours, theirs in (
        (m.roc_auc_score, tm.classification.multilabel_auroc),
        (m.average_precision_score, tm.classification.multilabel_average_precision),
    ):
        close(ours(p, t, average=average), theirs(p, t.long(), num_labels=5, average=average))
    if average == 'none':
        close(m.roc_auc_score(p, t, average=average), torch.stack([pairs_in_order(a, b) for a, b in zip(p.T, t.T)]))


@pytest.mark.parametrize('c', [3, 10])
def test_areas_of_single_labels_equal_torchmetrics(c):
    p, t = single(c)
    for average in 'macro', 'weighted', 'none':
        close(
            m.roc_auc_score(p, t, average=average),
            tm.classification.multiclass_auroc(p, t, num_classes=c, average=average),
        )
        close(
            m.average_precision_score(p, t, average=average),
            tm.classification.multiclass_average_precision(p, t, num_classes=c, average=average),
        )


def test_two_classes_default_to_the_score_of_class_1():
    p, t = single(2)
    y, prob = p.argmax(1), p.softmax(1)[:, 1]
    close(m.f1_score(p, t), tm.classification.binary_f1_score(y, t))
    close(m.roc_auc_score(p, t), tm.classification.binary_auroc(prob, t))
    close(m.average_precision_score(p, t), tm.classification.binary_average_precision(prob, t))
    close(m.f1_score(p, t, pos_label=0), tm.classification.binary_f1_score(1 - y, 1 - t))


def test_ties_in_scores_do_not_depend_on_order():
    p = torch.tensor([0.1, 0.5, 0.5, 0.5, 0.9])
    for t in [0, 1, 0, 0, 1], [0, 0, 0, 1, 1]:
        t = torch.tensor(t)
        two = torch.stack([1 - p, p], 1)
        close(m.roc_auc_score(two, t, logits=False), tm.classification.binary_auroc(p, t))
        close(m.average_precision_score(two, t, logits=False), tm.classification.binary_average_precision(p, t))


@pytest.mark.parametrize('c', [2, 3, 10])
def test_other_scores_equal_torchmetrics(c):
    p, t = single(c)
    y = p.argmax(1)
    close(m.matthews_corrcoef(p, t), tm.classification.multiclass_matthews_corrcoef(y, t, num_classes=c))
    for w in None, 'linear', 'quadratic':
        close(m.cohen_kappa_score(p, t, w), tm.classification.multiclass_cohen_kappa(y, t, num_classes=c, weights=w))
    close(m.balanced_accuracy_score(p, t), tm.classification.multiclass_recall(y, t, num_classes=c, average='macro'))
    close(
        m.calibration_error(p, t),
        tm.classification.multiclass_calibration_error(p.softmax(1), t, num_classes=c, n_bins=15),
    )
    close(m.accuracy(p, t), tm.classification.multiclass_accuracy(y, t, num_classes=c, average='micro'))
    if c > 5:
        close(
            m.top_k_accuracy(p, t), tm.classification.multiclass_accuracy(p, t, num_classes=c, average='micro', top_k=5)
        )
    close(m.brier_score(p, t), ((p.softmax(1) - F.one_hot(t, c)) ** 2).sum(1).mean() / (2 if c == 2 else 1))


def test_multi_label_rest():
    p, t = multi()
    close(m.hamming_loss(p, t), tm.classification.multilabel_hamming_distance(p, t.long(), num_labels=5))
    close(m.matthews_corrcoef(p, t), tm.classification.multilabel_matthews_corrcoef(p, t.long(), num_labels=5))
    close(m.exact_match(p, t), tm.classification.multilabel_exact_match(p, t.long(), num_labels=5))
    close(
        m.calibration_error(p, t),
        tm.classification.binary_calibration_error(p.sigmoid().flatten(), t.long().flatten(), n_bins=15),
    )


def test_a_class_that_never_occurs_is_left_out_of_the_mean():
    p, t = single(3)
    p4 = F.pad(p, (0, 1), value=-50.0)  # a fourth class, never right and never predicted
    for f in (
        m.f1_score,
        m.precision_score,
        m.recall_score,
        m.roc_auc_score,
        m.average_precision_score,
        m.balanced_accuracy_score,
    ):
        close(f(p4, t), f(p, t))
    assert m.roc_auc_score(p4, t, average='none')[3].isnan()


def test_a_model_that_always_says_the_same_is_no_better_than_chance():
    for c in 2, 3:
        lazy, t = F.one_hot(torch.zeros(100).long(), c).float(), torch.tensor([0] * 95 + [1] * 5)
        assert (
            m.matthews_corrcoef(lazy, t) == m.cohen_kappa_score(lazy, t) == 0
            and m.balanced_accuracy_score(lazy, t) == 0.5
        )


def test_logits_and_probabilities_agree():
    p, t = single(4)
    for f in m.roc_auc_score, m.average_precision_score, m.brier_score, m.calibration_error:
        close(f(p, t), f(p.softmax(1), t, logits=False))
    p, t = multi()
    for f in m.f1_score, m.roc_auc_score, m.brier_score, m.matthews_corrcoef, m.exact_match, m.hamming_loss:
        close(f(p, t), f(p.sigmoid(), t, logits=False))


def test_half_precision_and_bool_targets():
    p, t = multi()
    assert m.accuracy_multi(p.bfloat16(), t.bool()).dtype == torch.float32
    close(m.f1_score(p, t.bool()), m.f1_score(p, t))
    p, t = single(2)
    close(m.accuracy(p, t.bool()), m.accuracy(p, t))
    close(m.error_rate(p.half(), t[:, None]), m.error_rate(p.half(), t))  # targets with a trailing 1


def test_thousand_classes_are_quick_and_macro_counts_only_those_seen():
    p, t = single(1000, n=500)
    assert 0 < m.f1_score(p, t) <= 1 and 0 < m.matthews_corrcoef(p, t) <= 1


def test_errors_show_both_shapes():
    p, t = single(3)
    with pytest.raises(ValueError, match=r'\(200, 3\).*\(199,\).*accuracy_multi'):
        m.accuracy(p, t[:-1])
    with pytest.raises(ValueError, match='class numbers 0-2'):
        m.accuracy(p, t + 1)
    with pytest.raises(ValueError, match=r'\(200, 3\).*\(200, 2\)'):
        m.accuracy_multi(p, torch.zeros(200, 2))
    with pytest.raises(ValueError, match='average'):
        m.f1_score(p, t, average='samples')
    with pytest.raises(ValueError, match='average'):
        m.F1Score(average='makro')
    with pytest.raises(ValueError, match='brackets'):
        m.RocAuc(
            p,
        )
    with pytest.raises(ValueError, match='quadratic'):
        m.CohenKappa('square')(p, t)


def test_names():
    class MyScore:
        def reset(self): ...
        def update(self, p, t): ...
        def compute(self):
            return 1.0

    assert m.metric_name(MyScore()) == 'my_score' and m.metric_name(partial(m.accuracy)) == 'accuracy'
    assert m.metric_names([m.F1Score(), m.accuracy]) == ['f1_score', 'accuracy']
    assert m.metric_names([m.F1Score(), m.F1ScoreMulti(average='micro'), m.f1_score]) == [
        'f1_score',
        'f1_score(average=micro)',
        'f1_score_2',
    ]
    assert m.metric_names([m.accuracy, m.accuracy_multi, m.accuracy]) == ['accuracy', 'accuracy_multi', 'accuracy_2']
    named = MyScore()
    named.name = 'mine'
    assert m.metric_names([named, named]) == ['mine', 'mine_2']


def test_objects_are_handed_probabilities_and_whole_number_labels():
    class Spy:
        def reset(self):
            self.seen = []

        def update(self, p, t):
            self.seen.append((p, t))

        def compute(self):
            return len(self.seen)

    p, t = multi()
    s = Spy()
    assert m.compute_metric(s, p, t, p.sigmoid()) == 1 and m.compute_metric(s, p, t, p.sigmoid()) == 1
    assert torch.equal(s.seen[0][0], p.sigmoid()) and s.seen[0][1].dtype == torch.int64
    m.compute_metric(s, p[:, 0], t[:, 0] + 0.5)
    assert s.seen[0][1].is_floating_point()


def test_curves_start_at_zero_and_end_at_one():
    p, t = multi(1)
    fpr, tpr, th = m.roc_curve(p, t)
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1) and math.isinf(th[0]) and (th.diff() < 0).all()
    prec, rec, th = m.precision_recall_curve(p, t)
    assert rec[-1] == 1 and (rec.diff() >= 0).all() and abs(prec[-1] - t.mean()) < 1e-6
    yes = p[:, 0] >= th[20].float()
    close(rec[20], (t[:, 0].bool() & yes).sum() / t.sum())
