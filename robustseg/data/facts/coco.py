"""COCO-Stuff with its 171 classes: 80 of things, 91 of stuff."""

from __future__ import annotations

from robustseg.data.facts.row import DatasetFacts
from robustseg.data.facts.voc import voc_colour

_THINGS = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, -, stop sign,
parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, -, backpack, umbrella, -, -,
handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
surfboard, tennis racket, bottle, -, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, -, dining table, -, -, toilet, -, tv,
laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, -, book, clock, vase,
scissors, teddy bear, hair drier, toothbrush, -
"""
"""Labels 1 to 91 of COCO-Stuff's ``labels.txt``, which are 0 to 90 in the masks; - for those without annotations."""
_STUFF = """
banner, blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard, carpet, ceiling-other, ceiling-tile,
cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff, dirt, door-stuff, fence, floor-marble, floor-other,
floor-stone, floor-tile, floor-wood, flower, fog, food-other, fruit, furniture-other, grass, gravel, ground-other,
hill, house, leaves, light, mat, metal, mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement, pillow,
plant-other, plastic, platform, playingfield, railing, railroad, river, road, rock, roof, rug, salad, sand, sea, shelf,
sky-other, skyscraper, snow, solid-other, stairs, stone, straw, structural-other, table, tent, textile-other, towel,
tree, vegetable, wall-brick, wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood, water-other,
waterdrops, window-blind, window-other, wood
"""
"""Labels 92 to 182, which are 91 to 181 in the masks."""
_NAMES = tuple(name.strip() for name in f"{_THINGS},{_STUFF}".split(","))

COCO_IDS = tuple(number for number, name in enumerate(_NAMES) if name != "-")
"""Id in the published masks of each of the 171 classes."""

COCO_STUFF = DatasetFacts(
    name="COCOStuff",
    about="COCO-Stuff (164k) with 171 classes of things and stuff: 118287 training and 5000 validation images.",
    classes=tuple((_NAMES[number], voc_colour(number + 1)) for number in COCO_IDS),
    layout=(
        "images/{train2017,val2017}/*.jpg: the images, of many sizes",
        "annotations/{train2017,val2017}/*.png: masks of the same names, ids 0 to 181, 255 for unlabelled; or "
        "*_labelTrainIds.png, ids 0 to 170",
    ),
    split_sizes={"train": 118287, "val": 5000},
    source=(
        "Caesar, Uijlings and Ferrari, CVPR 2018; train2017.zip, val2017.zip and stuffthingmaps_trainval2017.zip of "
        "https://github.com/nightrome/cocostuff"
    ),
    licence="annotations CC BY 4.0, images flickr's terms of use: https://cocodataset.org/#termsofuse",
    config="data/coco_stuff",
)
