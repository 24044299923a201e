"Samples that are tuples: pipelines of them, their loaders, networks with several inputs, loaders of torch."

import random

import numpy as np
import pytest
import torch
from fastcore.basics import fastuple
from PIL import Image
from tiny import make_pictures
from torch import nn

import vislearn.all as v


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    return v.get_image_files(make_pictures(tmp_path_factory.mktemp('pictures'), 6)).sorted()


class Titled(fastuple):
    def show(self, ctx=None, **kwargs):
        v.show_titled_image(self, ctx=ctx, **kwargs)


class Labelled(v.ItemTransform):
    "A file as a picture and a number, as fastai's tutorial on pets has it."

    order = -5

    def setups(self, items):
        self.vocab, self.o2i = v.uniqueify(map(v.parent_label, items), sort=True, bidir=True)

    def encodes(self, o):
        return v.PILImage.create(o), self.o2i[v.parent_label(o)]

    def decodes(self, x):
        return Titled(x[0], self.vocab[x[1]])


def test_a_pipeline_of_pairs_changes_the_picture_and_undoes_the_label(files):
    steps = v.Pipeline([v.Resize(32), Labelled(), v.ToTensor()])
    steps.setup(files)
    assert list(steps.vocab) == ['blue', 'green', 'red']
    x, y = steps(files[-1])
    assert x.shape == (3, 32, 32) and y == 2 and isinstance(x, v.TensorImage)
    picture, title = steps.decode((x, y))
    assert title == 'red' and torch.equal(picture, x)


def test_transforms_of_pictures_leave_labels_alone():
    im = v.PILImage.create(np.zeros((20, 40, 3), np.uint8))
    small, label = v.Resize(16)((im, 7))
    assert small.size == (16, 16) and label == 7
    pair = v.ToTensor()(Titled(im, 'a'))
    assert type(pair) is Titled and pair[0].shape == (3, 20, 40)


def test_lists_of_pairs_learn_from_training_items_and_make_loaders(files):
    splits = [list(range(12)), list(range(12, 18))]  # red is in validation alone
    with pytest.raises(KeyError, match='red'):
        v.TfmdLists(files, [Labelled()], splits=splits).valid[0]
    splits = v.RandomSplitter(0.3, seed=0)(files)
    lists = v.TfmdLists(files, [v.Resize(32), Labelled(), v.ToTensor()], splits=splits)
    assert list(lists.vocab) == ['blue', 'green', 'red']
    dls = lists.dataloaders(bs=4, after_batch=[v.IntToFloatTensor(), v.Normalize([0.5] * 3, [0.5] * 3)], device='cpu')
    xb, yb = next(iter(dls.valid))
    want = [['blue', 'green', 'red'].index(files[i].parent.name) for i in splits[1][:4]]
    assert yb.tolist() == want and xb.min() >= -1 and xb.min() < -0.5
    x = torch.as_tensor(np.array(v.Resize(32)(v.PILImage.create(files[splits[1][0]])))).permute(2, 0, 1)
    assert torch.allclose(xb[0], (x / 255 - 0.5) / 0.5, atol=1e-6)


class Alike(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(16, 2)

    def forward(self, a, b):
        return self.head(torch.cat([self.body(a), self.body(b)], 1))


class Pair(fastuple):
    def show(self, ctx=None, **kwargs):
        seen.append(self[2] if len(self) > 2 else None)


seen: list = []


class Paired(v.Transform):
    "A file as two pictures and whether they are of one class; it has an attribute `valid`, as fastai's example does."

    def __init__(self, files):
        self.files, self.valid = list(files), {}
        self.draws = random.Random(0)

    def encodes(self, f):
        other = self.draws.choice(self.files)
        return Pair(v.PILImage.create(f), v.PILImage.create(other), int(f.parent == other.parent))


@pytest.fixture
def pairs(files):
    lists = v.TfmdLists(files, Paired(files), splits=v.RandomSplitter(0.3, seed=0)(files))
    return lists.dataloaders(bs=4, after_item=[v.Resize(16), v.ToTensor], device='cpu', seed=0)


def test_a_network_of_two_inputs_learns_validates_and_predicts(pairs, files):
    xs, y = pairs.one_batch()
    assert [tuple(x.shape) for x in xs] == [(4, 3, 16, 16)] * 2 and y.dtype == torch.int64
    run = {'default_cbs': False, 'precision': 'fp32', 'seed': 0}
    learn = v.Learner(pairs, Alike(), loss_func=v.CrossEntropyLossFlat(), metrics=v.accuracy, **run)
    before = learn.model.head.weight.clone()
    learn.fit_one_cycle(2, 1e-2)
    assert not torch.equal(before, learn.model.head.weight) and len(learn.history) == 2
    preds, targs = learn.get_preds(dl=[(xs, y)])
    with torch.no_grad():
        want = learn.model.eval()(xs[0], xs[1])
    assert torch.allclose(preds, want, atol=1e-6) and torch.equal(targs, y)
    two = Pair(v.PILImage.create(files[0]), v.PILImage.create(files[1]))
    answer, index, outputs = learn.predict(two)
    assert outputs.shape == (2,) and answer == index == outputs.argmax()


def test_samples_draw_themselves_or_by_a_function_of_their_class(pairs):
    seen.clear()
    pairs.show_batch(max_n=3)
    assert len(seen) == 3 and set(seen) <= {0, 1}
    drawn = []

    class Own(fastuple):
        pass

    @v.typedispatch
    def show_batch(x: Own, y, samples, max_n=9):
        drawn.append((x[0].shape, len(samples), max_n))

    v.TupleLoader([Own(torch.zeros(3, 8, 8), 1)] * 4, bs=4, device='cpu').show_batch(max_n=2)
    assert drawn == [((4, 3, 8, 8), 2, 2)]
    with pytest.raises(TypeError, match='functools.singledispatch'):

        @v.typedispatch
        def other(x: Own):
            pass


def test_torchs_data_sets_of_tuples():
    class Numbers(torch.utils.data.Dataset):
        def __getitem__(self, i):
            return torch.full((3, 8, 8), i / 10), torch.full((3, 8, 8), 1.0), torch.tensor(float(i))

        def __len__(self):
            return 5

    dls = v.DataLoaders.from_dsets(Numbers(), Numbers(), bs=2, device='cpu')
    xs, y = next(iter(dls.valid))
    assert y.tolist() == [0, 1] and xs[0].mean(dim=(1, 2, 3)).tolist() == pytest.approx([0, 0.1])
    assert len(dls.train) == 2 and len(dls.valid) == 3


def test_loaders_of_torch_train_a_learner():
    data = torch.utils.data.TensorDataset(torch.rand(12, 1, 8, 8), torch.arange(12) % 2)
    loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True)
    dls = v.DataLoaders(loader, torch.utils.data.DataLoader(data, batch_size=5))
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    learn = v.Learner(
        dls, net, loss_func=nn.CrossEntropyLoss(), metrics=v.accuracy, default_cbs=False, precision='fp32'
    )
    learn.fit(1)
    preds, targs = learn.get_preds()
    assert torch.equal(targs, data.tensors[1])
    with torch.no_grad():
        assert torch.allclose(preds, net(data.tensors[0]), atol=1e-6)
    assert (dls.train.n, dls.train.bs, len(dls.valid)) == (12, 4, 3)


def test_sizes_that_do_not_stack_say_what_to_give():
    pairs = [(Image.new('RGB', (8, 8)), 0), (Image.new('RGB', (9, 8)), 1)]
    with pytest.raises(ValueError, match='Give after_item=Resize'):
        v.TupleLoader(pairs, bs=2).one_batch()


def test_an_encodes_for_another_task_is_left_out():
    class Resizer(v.Transform):
        def encodes(self, o: v.PILImage):
            return o.resize((8, 8))

        def encodes(self, o: v.PILMask):  # noqa: F811
            return None

    assert Resizer()(v.PILImage.create(np.zeros((20, 20, 3), np.uint8))).size == (8, 8)


def test_pictures_may_be_recast_and_have_fastais_methods():
    im = v.PILImage(Image.fromarray(np.arange(12, dtype=np.uint8).reshape(2, 2, 3)))
    assert im.shape == (2, 2) and np.array_equal(np.array(im.flip_lr()), np.array(im)[:, ::-1])
    assert np.array_equal(np.array(im.dihedral(3)), np.rot90(np.array(im)))
    with pytest.raises(AttributeError, match=r'use CropPad\(size\)\(img\)'):
        im.crop_pad(3)
    x = v.TensorImage(torch.rand(2, 3, 8, 8))
    assert torch.equal(x.rotate(draw=90, p=1.0), v.Rotate(draw=90, p=1.0)(torch.Tensor(x)))


def test_losses_of_each_item():
    loss = nn.CrossEntropyLoss()
    with v.NoneReduce(loss) as each:
        assert each(torch.zeros(2, 2), torch.tensor([0, 1])).tolist() == pytest.approx([np.log(2)] * 2)
    assert loss.reduction == 'mean'
