"""What fast decoding costs: distance to Pillow's full decode, and how often an ImageNet network sees the same thing.

    python tests/bench/pixels.py [--quick] [--data FOLDER]

The photographs of ants and bees, whole at 224x224, and efficientnet_lite0 with ImageNet weights. The reference is Pillow: decode at full size, one antialiased
bilinear resize. `>= 2x` is how validation, prediction and export open a file, `>= 1x` how training does, `cache` what later epochs of training get.
"""

from bench import report
from sides import need_data, options, photos

ANT, BEE = 310, 309  # ImageNet's classes

ANT, BEE = 310, 309  # ImageNet's classes


def pillow(f, cut):
    "The reference: (3,h,w) uint8."
    import numpy as np
    import torch
    from PIL import Image, ImageOps

    l, t, w, h = cut.box
    im = (
        ImageOps.exif_transpose(Image.open(f))
        .convert('RGB')
        .resize(cut.size[::-1], Image.BILINEAR, box=(l, t, l + w, t + h))
    )
    return torch.from_numpy(np.array(im)).permute(2, 0, 1)


def main() -> None:
    args = options(__doc__).parse_args()
    need_data(args)
    import timm
    import torch
    from ants_and_bees import lite_body

    from vislearn.data.cache import PictureCache
    from vislearn.data.image import open_image
    from vislearn.data.resize import ItemPipeline, Resize

    net = timm.create_model('tf_efficientnet_lite0').eval()
    net.load_state_dict(lite_body(whole=True))
    fns, plan, cache = (
        photos(args.data, 12 if args.quick else None),
        Resize(224).valid(),
        PictureCache(round(224 * 1.3)),
    )
    truth = torch.tensor([ANT if o.parent.name == 'ants' else BEE for o in fns])

    def cut_of(f, oversample):
        h, w = open_image(f).shape[1:]
        return plan.cut(h, w)._replace(oversample=oversample)

    ways = {
        'Pillow, full decode': lambda f: pillow(f, cut_of(f, 1)),
        'decoded at >= 2x': lambda f: open_image(f, lambda h, w: cut_of(f, 2)),
        'decoded at >= 1x': lambda f: open_image(f, lambda h, w: cut_of(f, 1)),
        'from the cache': lambda f: ItemPipeline(plan)(cache(f)),
    }
    seen, pics = {}, {}
    for way, read in ways.items():
        pics[way] = [read(f) for f in fns]
        with torch.no_grad():
            seen[way] = torch.cat(
                [net(torch.stack(pics[way][i : i + 32]).float() / 127.5 - 1).argmax(1) for i in range(0, len(fns), 32)]
            )
    base = next(iter(ways))
    rows = [
        {
            '': o,
            'mean difference of 255': sum(
                (a.float() - b.float()).abs().mean().item() for a, b in zip(pics[o], pics[base])
            )
            / len(fns),
            'same class, %': 100 * (seen[o] == seen[base]).float().mean().item(),
            'right class, %': 100 * (seen[o] == truth).float().mean().item(),
        }
        for o in ways
    ]
    args.rounds = 1
    report('pixels', rows, {o: seen[o].tolist() for o in ways}, args)


if __name__ == '__main__':
    main()
