"The metrics against counting by hand on random data, and their edges."

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from vislearn import fastai_names as names
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


def steps_of_precision(scores, truth):
    "Precision at each distinct score, weighted by the share of positives that this score adds."
    area, found = 0.0, 0
    for th in sorted(set(scores.tolist()), reverse=True):
        yes = scores >= th
        tp = int((yes & truth.bool()).sum())
        area += (tp - found) / int(truth.sum()) * tp / int(yes.sum())
        found = tp
    return torch.tensor(area)


AREAS = [(m.roc_auc_score, pairs_in_order), (m.average_precision_score, steps_of_precision)]


def mean_of(each, n, average):
    return {'macro': each.mean(), 'weighted': (each * n).sum() / n.sum(), 'none': each}[average]


@pytest.mark.parametrize('f,by_hand', AREAS)
def test_areas_of_several_labels_are_what_counting_gives(f, by_hand):
    p, t = multi()
    each = torch.stack([by_hand(a, b) for a, b in zip(p.T, t.T)])
    for average in 'macro', 'weighted', 'none':
        close(f(p, t, average=average), mean_of(each, t.sum(0), average))
    close(f(p, t, average='micro'), by_hand(p.flatten(), t.flatten()))


@pytest.mark.parametrize('f,by_hand', AREAS)
@pytest.mark.parametrize('c', [3, 10])
def test_areas_of_single_labels_are_what_counting_gives(f, by_hand, c):
    p, t = single(c)
    each = torch.stack([by_hand(p.softmax(1)[:, i], t == i) for i in range(c)])
    for average in 'macro', 'weighted', 'none':
        close(f(p, t, average=average), mean_of(each, F.one_hot(t, c).sum(0), average))


def test_two_classes_default_to_the_score_of_class_1():
    p, t = single(2)
    yes, prob = p.argmax(1), p.softmax(1)[:, 1]
    tp, fp, fn = (int(o.sum()) for o in (yes * t, yes * (1 - t), (1 - yes) * t))
    close(m.f1_score(p, t), 2 * tp / (2 * tp + fp + fn))
    close(m.roc_auc_score(p, t), pairs_in_order(prob, t))
    close(m.average_precision_score(p, t), steps_of_precision(prob, t))
    tn = len(t) - tp - fp - fn
    close(m.f1_score(p, t, pos_label=0), 2 * tn / (2 * tn + fp + fn))
    close(m.jaccard_score(p, t), tp / (tp + fp + fn))


def test_ties_in_scores_do_not_depend_on_order():
    p = torch.tensor([0.1, 0.5, 0.5, 0.5, 0.9])
    for t, roc, ap in ([0, 1, 0, 0, 1], 5 / 6, 0.5 + 0.5 * 0.5), ([0, 0, 0, 1, 1], 5 / 6, 0.5 + 0.5 * 0.5):
        two = torch.stack([1 - p, p], 1)
        close(m.roc_auc_score(two, torch.tensor(t), logits=False), roc)  # 1 won, 1 half of 6 pairs lost
        close(m.average_precision_score(two, torch.tensor(t), logits=False), ap)


def test_sure_answers_are_still_ranked():
    "Probabilities that float32 rounds to 1 differ as logits: perfect order is an area of 1."
    sure = torch.linspace(17, 25, 40)
    t = (torch.arange(40) >= 20).long()
    assert m.roc_auc_score(sure[:, None], t[:, None].float()) == 1
    assert m.roc_auc_score(torch.stack([torch.zeros(40), sure], 1), t) == 1
    assert m.average_precision_score(torch.stack([torch.zeros(40), sure], 1), t) == 1
    three = torch.stack([torch.zeros(40), sure, torch.zeros(40)], 1)
    assert m.roc_auc_score(three, t, average='none')[:2].tolist() == [1, 1]
    assert m.roc_auc_score(torch.stack([torch.zeros(40), sure - 60], 1), t) == 1


def kappa(table, cost):
    "1 - observed cost / cost expected from the margins."
    n = table.sum()
    expected = table.sum(1, keepdim=True) * table.sum(0, keepdim=True) / n
    return 1 - (table * cost).sum() / (expected * cost).sum()


def calibration(conf, right, n_bins=15):
    "Mean over all answers of |mean confidence - share right| of their bin."
    bins = [min(n_bins - 1, max(0, math.ceil(o * n_bins) - 1)) for o in conf.tolist()]
    total = 0.0
    for b in set(bins):
        inside = torch.tensor([o == b for o in bins])
        total += abs(float(conf[inside].sum() - right[inside].sum()))
    return total / len(conf)


@pytest.mark.parametrize('c', [2, 3, 10])
def test_other_scores_are_what_counting_gives(c):
    p, t = single(c)
    y = p.argmax(1)
    table = torch.zeros(c, c, dtype=torch.double)
    for i, j in zip(t.tolist(), y.tolist()):
        table[i, j] += 1
    far = (torch.arange(c)[:, None] - torch.arange(c)).abs().double()
    for weights, cost in (None, (far > 0).double()), ('linear', far), ('quadratic', far**2):
        close(m.cohen_kappa_score(p, t, weights), kappa(table, cost))
    close(m.balanced_accuracy_score(p, t), (table.diag() / table.sum(1)).mean())
    close(m.accuracy(p, t), table.diag().sum() / table.sum())
    a, b = F.one_hot(t, c).double(), F.one_hot(y, c).double()
    a, b = a - a.mean(0), b - b.mean(0)
    close(m.matthews_corrcoef(p, t), (a * b).sum() / (a.norm() * b.norm()))  # Gorodkin's correlation
    conf = p.softmax(1).max(1).values
    close(m.calibration_error(p, t), calibration(conf, (y == t).float()))
    ranks = (p > p.gather(1, t[:, None])).sum(1)
    for k in 1, 2, 5:
        close(m.top_k_accuracy(p, t, k), (ranks < k).float().mean())
    close(m.brier_score(p, t), ((p.softmax(1) - F.one_hot(t, c)) ** 2).sum(1).mean() / (2 if c == 2 else 1))


def test_equal_predictions_are_ranked_by_class_number():
    "One rule for ties: accuracy is top-1 accuracy, and a network that says nothing is right about class 0."
    p, t = torch.zeros(300, 7).bfloat16(), torch.arange(300) % 7
    for q in p, torch.randint(3, (300, 7)).float():
        assert m.top_k_accuracy(q, t, k=1) == m.accuracy(q, t)
    assert m.accuracy(p, t) == (t == 0).float().mean() and m.top_k_accuracy(p, t, k=3) == (t < 3).float().mean()


def test_multi_label_rest():
    p, t = multi()
    yes = p.sigmoid() > 0.5
    close(m.hamming_loss(p, t), (yes != t.bool()).float().mean())
    close(m.matthews_corrcoef(p, t), torch.corrcoef(torch.stack([yes.flatten().float(), t.flatten()]))[0, 1])
    close(m.exact_match(p, t), (yes == t.bool()).all(1).float().mean())
    close(m.calibration_error(p, t), calibration(p.sigmoid().flatten(), t.flatten()))
    per_label = [int((y & o).sum()) / int((y | o).sum()) for y, o in zip(yes.T, t.bool().T)]
    close(m.jaccard_score(p, t, average='none'), torch.tensor(per_label))
    close(m.jaccard_score(p, t), sum(per_label) / 5)


def test_numbers():
    g = torch.Generator().manual_seed(1)
    t = torch.randn(50, 2, generator=g)
    p = t * torch.tensor([0.5, 2.0]) + 0.1 * torch.randn(50, 2, generator=g)
    each = [torch.corrcoef(torch.stack([a, b]))[0, 1] for a, b in zip(p.T, t.T)]
    close(m.pearson_corrcoef(p, t), sum(each) / 2)
    r2 = [1 - ((a - b) ** 2).sum() / ((b - b.mean()) ** 2).sum() for a, b in zip(p.T, t.T)]
    close(m.r2_score(p, t), sum(r2) / 2)
    assert m.r2_score(torch.ones(4), torch.ones(4)) == 1 and m.r2_score(torch.zeros(4), torch.ones(4)) == 0


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
        names.F1Score(average='makro')
    with pytest.raises(ValueError, match='brackets'):
        names.RocAuc(
            p,
        )
    with pytest.raises(ValueError, match='quadratic'):
        names.CohenKappa('square')(p, t)


def test_names():
    class MyScore:
        def reset(self): ...
        def update(self, p, t): ...
        def compute(self):
            return 1.0

    assert m.metric_name(MyScore()) == 'my_score' and m.metric_name(partial(m.accuracy)) == 'accuracy'
    assert m.metric_names([names.F1Score(), m.accuracy]) == ['f1_score', 'accuracy']
    assert m.metric_names([names.F1Score(), names.F1ScoreMulti(average='micro'), m.f1_score]) == [
        'f1_score',
        'f1_score(average=micro)',
        'f1_score_2',
    ]
    assert m.metric_names([m.accuracy, m.accuracy_multi, m.accuracy]) == ['accuracy', 'accuracy_multi', 'accuracy_2']
    named = MyScore()
    named.name = 'mine'
    assert m.metric_names([named, named]) == ['mine', 'mine_2']


def test_metric_classes_written_for_fastai():
    class Wrong:
        def reset(self):
            self.n = self.total = 0

        def accumulate(self, learn):
            self.total += int((learn.pred.argmax(-1) != learn.y).sum())
            self.n += len(learn.yb[0])

        @property
        def value(self):
            return self.total / self.n

    p, t = single(3)
    assert m.compute_metric(Wrong(), p, t) == pytest.approx(float(m.error_rate(p, t)))


def test_metrics_can_be_listed():
    assert {'accuracy', 'f1_score', 'jaccard_score', 'pearson_corrcoef'} <= set(m.list_metrics())
    with pytest.raises(ValueError, match="unknown metric 'f1score'; did you mean 'f1_score'"):
        m.get_metric('f1score')


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


def test_rank_correlation_by_hand():
    "Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: the mean of both is 2.5, the sums of squares are 4.5 and 5."
    p, t = torch.tensor([0.1, 7.0, 7.0, 100.0]), torch.tensor([1.0, 2.0, 3.0, 4.0])
    close(m.spearman_corrcoef(p, t), 4.5 / (4.5 * 5) ** 0.5)
    close(m.spearman_corrcoef(-p, t), -4.5 / (4.5 * 5) ** 0.5)
    close(m.spearman_corrcoef(torch.stack([p, -p], 1), torch.stack([t, t], 1)), 0)
    close(m.spearman_corrcoef(p.exp2()[:, None], t), 4.5 / (4.5 * 5) ** 0.5)  # only the order counts
    assert m.spearman_corrcoef(torch.ones(4), t).isnan()


def test_errors_as_a_share_by_hand():
    p, t = torch.tensor([[0.0], [3.0]]), torch.tensor([1.0, 1.0])
    close(m.msle(p, t), 2 * math.log(2) ** 2 / 2)  # log 1 and log 4 against log 2
    close(m.exp_rmspe(torch.tensor([3.0, 1.0]).log(), torch.tensor([2.0, 2.0]).log()), 0.5)
    close(m.explained_variance_score(torch.tensor([11.0, 12, 13]), torch.tensor([1.0, 2, 3])), 1)
    wrong = torch.tensor([2.0, 2, 4, 4])  # errors 1, 0, 1, 0: their variance is a quarter, that of the truth 5 quarters
    close(m.explained_variance_score(wrong, torch.tensor([1.0, 2, 3, 4])), 1 - 1 / 5)


def test_fastais_names_of_them():
    assert names.SpearmanCorrCoef() is m.spearman_corrcoef and names.ExplainedVariance() is m.explained_variance_score
    assert {'spearman_corrcoef', 'explained_variance_score', 'msle', 'exp_rmspe'} <= set(m.list_metrics())
