"""The words of the demo corpus. Each, with a space before it, is one token of the demo tokenizer."""

from __future__ import annotations


def _listed(words: str) -> list[str]:
    return words.split()


def _pairs(words: str) -> dict[str, str]:
    """{"Paris": "France"} from "Paris:France"."""
    return dict(pair.split(":") for pair in words.split())


NAMES = _listed(
    """
    Ann Bob Carl Dan Emma Frank Grace Henry Iris Jack Kate Leo Mary Nick Olga Paul Rose Sam Tom Vera Will Zoe
    John Alice Ben Clara David Eva Fred Gina Hugo Ivy James Kim Lucy Mark Nina Oscar Peter Rita Sara Tim Uma
    Victor Wendy Adam Bella Chris Diana Eric Fiona George Helen Ian Jane Kevin Laura Max Nora
    """
)

KINDS = {
    "fruit": _listed("apple banana pear plum peach cherry grape lemon orange mango melon kiwi fig lime apricot"),
    "animal": _listed(
        "dog cat horse cow sheep goat rabbit mouse tiger lion wolf fox bear monkey elephant duck owl parrot"
    ),
    "tool": _listed("hammer saw wrench drill axe shovel rake chisel screwdriver ladder pliers file"),
    "vehicle": _listed("car bus truck bicycle boat train plane tractor ship van taxi scooter canoe"),
    "instrument": _listed("piano violin guitar trumpet flute drum cello harp oboe banjo organ clarinet"),
    "garment": _listed("shirt coat hat scarf sock glove jacket dress skirt sweater belt shoe apron"),
    "drink": _listed("coffee tea juice milk water wine beer cocoa cider soda lemonade"),
    "piece of furniture": _listed("chair table bed desk sofa shelf bench stool cupboard armchair wardrobe"),
    "vegetable": _listed("carrot potato onion cabbage tomato cucumber pumpkin bean turnip radish leek"),
    "flower": _listed("lily tulip daisy violet orchid poppy iris sunflower lilac dahlia"),
    "toy": _listed("doll kite puzzle robot balloon yoyo marble teddy slingshot"),
    "gem": _listed("diamond ruby emerald pearl opal sapphire amber topaz"),
    "dish": _listed("soup salad pizza pie cake omelet stew sandwich pancake burger"),
    "book": _listed("novel atlas dictionary diary manual textbook comic bible"),
    "insect": _listed("bee ant fly beetle butterfly moth wasp cricket"),
    "weapon": _listed("sword bow spear knife dagger rifle cannon pistol"),
    "building": _listed("house castle church tower school barn hotel palace temple"),
    "fish": _listed("salmon trout tuna shark cod herring carp eel"),
}
THINGS = {thing: kind for kind, things in KINDS.items() for thing in things}
UNCOUNTED = set(_listed("coffee tea juice milk water wine beer cocoa cider soda lemonade amber pliers"))

CITIES = _pairs(
    """
    Paris:France Lyon:France Rome:Italy Milan:Italy Naples:Italy Berlin:Germany Munich:Germany Hamburg:Germany
    Madrid:Spain Seville:Spain London:England Leeds:England Lisbon:Portugal Porto:Portugal Athens:Greece
    Vienna:Austria Graz:Austria Geneva:Switzerland Zurich:Switzerland Brussels:Belgium Oslo:Norway Bergen:Norway
    Stockholm:Sweden Helsinki:Finland Copenhagen:Denmark Warsaw:Poland Krakow:Poland Prague:Czechia
    Budapest:Hungary Moscow:Russia Kiev:Ukraine Tokyo:Japan Kyoto:Japan Osaka:Japan Beijing:China Shanghai:China
    Seoul:Korea Delhi:India Mumbai:India Bangkok:Thailand Hanoi:Vietnam Cairo:Egypt Nairobi:Kenya Lagos:Nigeria
    Toronto:Canada Montreal:Canada Chicago:America Boston:America Lima:Peru Bogota:Colombia Santiago:Chile
    Sydney:Australia
    """
)

SKILLS = _listed(
    """
    swim sing dance cook paint write read draw drive fly run jump climb ski skate ride row sail fish hunt knit
    sew weave bake fry boil brew carve build dig plant mow sweep iron juggle whistle hum shout whisper count
    spell type code solve teach translate negotiate act film photograph box wrestle fence dive surf float crawl
    march camp hike
    """
)

ANTONYMS = _pairs(
    """
    hot:cold big:small tall:short fast:slow happy:sad rich:poor young:old strong:weak light:dark wet:dry
    clean:dirty loud:quiet early:late full:empty hard:soft good:bad new:ancient open:closed brave:timid
    kind:cruel thick:thin wide:narrow deep:shallow high:low near:far sharp:blunt smooth:rough sweet:bitter
    heavy:weightless clever:stupid busy:idle calm:nervous polite:rude safe:dangerous simple:complex
    cheap:expensive true:false right:wrong awake:asleep alive:dead healthy:sick fresh:stale tight:loose
    straight:crooked public:private noisy:silent beautiful:ugly generous:greedy honest:dishonest humble:proud
    lazy:diligent patient:impatient careful:careless useful:useless possible:impossible visible:hidden
    famous:unknown modern:obsolete common:rare major:minor male:female positive:negative active:passive
    first:last inner:outer north:south wild:tame raw:cooked sober:drunk guilty:innocent permanent:temporary
    natural:artificial friendly:hostile tidy:messy fat:lean bright:dim
    """
)
ONE_OF_EACH_PAIR = list(ANTONYMS)
# both directions: the opposite of cold is hot
OPPOSITES = {**ANTONYMS, **{second: first for first, second in ANTONYMS.items()}}

SEQUENCES = [
    _listed("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
    _listed("January February March April May June July August September October November December"),
    _listed("one two three four five six seven eight nine ten eleven twelve"),
    list("0123456789"),
    list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    _listed("second minute hour day week month year decade century"),
]

PLACES = _listed("park store market garden beach forest station library museum river kitchen office farm village city")
COLOURS = _listed("red blue green yellow white black brown pink grey purple")
VERBS = {"found": "a", "lost": "the", "saw": "a", "bought": "a", "sold": "the", "wanted": "a", "took": "the",
         "carried": "the", "liked": "the", "broke": "the"}  # fmt: skip
COMMON = _listed(
    """
    a an the and or but not is are was were be has have had do does did can will would of to in on at by for
    from with it its he she they him her his them their we you I me my your this that these those what where why
    how when who which there here then now very more most some any all no yes one other man woman child people
    friend house time way world thing name kind old new go goes went come came get got give make made see look
    think know say said tell told ask asked eat drink like love want need little long great good first after
    before because if so as than about into over up down out again also only always never
    """
)
"""Words of ordinary prompts; the corpus uses them in its repeated lists and, many of them, in its sentences."""

STARTS = _listed("So The Who What Where When Once There On In Then She He It They A An This And But My Yes No One")
"""Words that also begin a text or a line, without a space before them."""
