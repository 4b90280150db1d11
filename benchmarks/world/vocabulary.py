"""The words of the world: every thing, colour, action and scene, and the ways a caption may say each of them.

The first word of each tuple is the name a class list uses ("star spinning"); the rest are synonyms of captions alone.
"""

THINGS: dict[str, tuple[str, ...]] = {
    "star": ("star", "starlet"),
    "ball": ("ball", "beach ball"),
    "cube": ("cube", "box"),
    "heart": ("heart", "love heart"),
    "fish": ("fish", "goldfish"),
    "bird": ("bird", "chick"),
    "cat": ("cat", "kitten"),
    "snail": ("snail", "slug"),
    "flower": ("flower", "daisy"),
    "tree": ("tree", "pine"),
    "house": ("house", "cottage"),
    "car": ("car", "automobile"),
    "boat": ("boat", "ship"),
    "rocket": ("rocket", "missile"),
    "robot": ("robot", "android"),
    "ghost": ("ghost", "spirit"),
    "moon": ("moon", "crescent"),
    "arrow": ("arrow", "pointer"),
    "ring": ("ring", "hoop"),
    "cup": ("cup", "mug"),
    "umbrella": ("umbrella", "parasol"),
    "mushroom": ("mushroom", "toadstool"),
    "butterfly": ("butterfly", "moth"),
    "person": ("person", "human", "man"),
}

ACTIONS: dict[str, tuple[str, ...]] = {
    "spinning": ("spinning", "whirling", "turning round"),
    "jumping": ("jumping", "hopping", "leaping"),
    "falling": ("falling", "dropping", "falling down"),
    "flying": ("flying", "soaring"),
    "growing": ("growing", "getting bigger"),
    "shrinking": ("shrinking", "getting smaller"),
    "rolling": ("rolling", "tumbling"),
    "swimming": ("swimming", "floating in water"),
    "sleeping": ("sleeping", "napping"),
    "singing": ("singing", "making music"),
    "exploding": ("exploding", "blowing up"),
    "burning": ("burning", "on fire"),
    "melting": ("melting", "dripping away"),
    "hiding": ("hiding", "hiding behind a wall"),
    "climbing": ("climbing", "climbing a ladder"),
    "swinging": ("swinging", "swinging on a rope"),
    "trembling": ("trembling", "shivering"),
    "walking": ("walking", "strolling"),
    "running": ("running", "racing"),
    "juggling": ("juggling", "juggling balls"),
    "crying": ("crying", "weeping"),
    "waving": ("waving", "waving hello"),
    "shining": ("shining", "glowing"),
    "digging": ("digging", "burrowing"),
}

COLOURS: dict[str, tuple[str, ...]] = {
    "red": ("red", "scarlet"),
    "orange": ("orange",),
    "yellow": ("yellow", "golden"),
    "green": ("green",),
    "blue": ("blue",),
    "purple": ("purple", "violet"),
    "pink": ("pink",),
    "brown": ("brown",),
    "white": ("white",),
    "black": ("black",),
    "gray": ("gray", "grey"),
    "turquoise": ("turquoise", "teal"),
}

RGB: dict[str, tuple[int, int, int]] = {
    "red": (215, 38, 38),
    "orange": (245, 138, 20),
    "yellow": (245, 215, 40),
    "green": (40, 165, 60),
    "blue": (40, 80, 215),
    "purple": (130, 50, 180),
    "pink": (248, 130, 185),
    "brown": (125, 75, 35),
    "white": (245, 245, 245),
    "black": (35, 35, 40),
    "gray": (135, 135, 140),
    "turquoise": (40, 190, 185),
}

SCENES: dict[str, tuple[str, ...]] = {
    "meadow": ("on a meadow", "on the grass", "in a field"),
    "desert": ("in the desert", "on the sand"),
    "night": ("at night", "under the stars"),
    "city": ("in the city", "in front of buildings"),
    "forest": ("in the forest", "among the trees", "in the woods"),
    "mountains": ("in the mountains", "in front of snowy mountains"),
    "room": ("in a room", "indoors", "inside the house"),
    "sea": ("at the sea", "by the ocean"),
    "road": ("on the road", "on a street"),
    "stage": ("on a stage", "in a theatre"),
}

SCENE_NOUNS: dict[str, tuple[str, ...]] = {
    "meadow": ("meadow", "field of grass"),
    "desert": ("desert", "sand"),
    "night": ("night sky", "dark sky with stars"),
    "city": ("city", "row of buildings"),
    "forest": ("forest", "wood"),
    "mountains": ("mountain landscape", "snowy mountain"),
    "room": ("room", "room with a window"),
    "sea": ("sea", "ocean"),
    "road": ("road", "street"),
    "stage": ("stage", "theatre stage"),
}

SIZES: dict[str, tuple[str, ...]] = {
    "small": ("small", "little", "tiny"),
    "medium": ("medium sized", "normal"),
    "large": ("large", "big", "huge"),
}
