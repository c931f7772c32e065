"""The words of the in-context tasks: data only. A thing's article is part of it; "+" marks plurals, "~" mass nouns."""

from __future__ import annotations


def _listed(words: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in words.split(",") if word.strip())


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _by_label(text: str) -> dict[str, tuple[str, ...]]:
    """{"fruit": ("apple", ...)} from lines "fruit: apple, ..."."""
    pairs = (line.split(":") for line in text.strip().splitlines())
    return {label.strip(): _listed(words) for label, words in pairs}


NAMES = _words(
    """
    Alan Albert Alice Amy Andrea Andrew Angela Anna Anthony Barbara Betty Brian Carl Carol Charles Christine Christopher
    Daniel David Deborah Dennis Diana Donald Donna Dorothy Edward Elizabeth Emily Emma Eric Frank George Grace Gregory
    Harold Helen Henry Jack James Jane Janet Jason Jean Jeff Jennifer John Joseph Joyce Julia Karen Kate Keith Kenneth
    Kevin Kimberly Laura Linda Lisa Louis Lucy Margaret Maria Marie Mark Martha Martin Mary Michael Michelle Nancy
    Nicole Patricia Paul Peter Philip Rachel Ralph Richard Robert Ronald Rose Ruth Samuel Sandra Sarah Scott Sharon
    Simon Stephen Steven Susan Thomas Victor Walter William
    """
)

KINDS = _by_label(
    """
    clothing: +jeans, sweater, shirt, jacket, costume, uniform, jersey, +shoes, +pants, +trousers, ~underwear, T-shirt, coat, skirt, dress, scarf, hat, +gloves, +socks, blouse, cardigan, belt
    vehicle: taxi, car, bus, jeep, motorcycle, truck, van, bicycle, train, tractor, scooter, ambulance, lorry, tram
    drink: cocktail, ~whiskey, ~juice, ~beer, ~soda, ~wine, ~vodka, ~coffee, ~tea, ~milk, ~lemonade, ~cocoa, ~cider, ~champagne, ~rum, ~gin
    insect: bee, beetle, mosquito, ant, butterfly, moth, wasp, cricket, grasshopper, ladybird, dragonfly, cockroach
    fruit: pineapple, mango, lime, lemon, kiwi, durian, papaya, peach, pear, plum, apple, apricot, banana, orange, watermelon, +strawberries, +blueberries, +blackberries, +cherries, +grapes, melon, fig, coconut, +raspberries, grapefruit
    animal: fox, pig, deer, dog, wolf, +sheep, horse, goat, monkey, rabbit, donkey, squirrel, mouse, goose, gorilla, elephant, lion, tiger, cat, cow, duck, bear, zebra, giraffe, camel, kangaroo, hamster, parrot, otter
    weapon: handgun, gun, pistol, grenade, revolver, rifle, shotgun, cannon, sword, spear, dagger, bomb
    food: hamburger, burger, ~cake, ~pizza, ~spaghetti, ~meat, steak, ~bread, sandwich, ~soup, ~rice, ~cheese, omelette, pancake, sausage, +noodles, pie
    sport: football, basketball, baseball, ~volleyball, ~tennis, ~golf, ~hockey, ~rugby, ~badminton
    musical instrument: guitar, piano, violin, flute, trumpet, drum, cello, harp, banjo, clarinet, saxophone, trombone, accordion
    furniture: chair, table, sofa, bed, desk, wardrobe, bookcase, bench, stool, armchair
    vegetable: carrot, potato, onion, cabbage, cucumber, turnip, radish, ~spinach, ~broccoli, leek
    flower: rose, tulip, daisy, violet, orchid, lily, sunflower, daffodil, carnation
    jewelry: necklace, bracelet, brooch, ring, +earrings, tiara
    """  # noqa: E501
)

USES = _by_label(
    """
    drive: car, truck, jeep, bus, taxi, van, tractor, lorry
    play: guitar, piano, violin, flute, trumpet, cello, harp, drum
    write: pencil, pen, biro, ~chalk, typewriter, crayon
    swim: +goggles, +swim fins, swimsuit, snorkel, +flippers
    calculate: calculator, abacus, computer, slide rule
    clean: vacuum cleaner, mop, broom, duster, sponge, dishcloth
    paint: palette, roller, ~spray, brush, easel
    cook: pot, pan, oven, stove, saucepan, wok, microwave
    ride: bicycle, motorcycle, horse, scooter, camel, donkey
    kill: gun, dagger, knife, rifle, pistol, sword
    communicate: phone, radio, telephone, telegraph, walkie-talkie, fax
    fly: plane, helicopter, glider, airship, rocket, kite
    sew: needle, sewing machine, thimble, ~thread
    dig: shovel, spade, hoe, excavator
    measure: ruler, thermometer, +scales, barometer
    """
)

CITIES = _by_label(
    """
    South Korea: Seoul, Busan, Incheon, Daegu, Daejeon
    Australia: Sydney, Canberra, Brisbane, Melbourne, Perth, Adelaide
    the United Kingdom: London, Manchester, Birmingham, Liverpool, Glasgow, Leeds, Bristol, Cardiff
    Brazil: Brasília, Sao Paulo, Rio de Janeiro, Salvador, Fortaleza
    Japan: Kyoto, Tokyo, Osaka, Nagoya, Sapporo, Fukuoka, Hiroshima
    Canada: Vancouver, Toronto, Ottawa, Montreal, Calgary, Winnipeg
    Thailand: Chiang Mai, Bangkok, Pattaya, Phuket
    India: Mumbai, New Delhi, Bangalore, Chennai, Kolkata, Jaipur
    Spain: Barcelona, Madrid, Valencia, Seville, Bilbao, Granada
    Germany: Munich, Berlin, Hamburg, Cologne, Frankfurt, Dresden, Leipzig
    France: Paris, Lyon, Marseille, Nice, Bordeaux, Toulouse, Lille
    Switzerland: Bern, Zurich, Geneva, Basel, Lausanne
    the United States: Los Angeles, New York, Chicago, Boston, Seattle, Houston, Miami, Washington
    Italy: Milan, Rome, Florence, Venice, Naples, Turin, Bologna
    China: Shanghai, Beijing, Guangzhou, Shenzhen, Nanjing, Wuhan
    Russia: Moscow, Saint Petersburg, Novosibirsk, Kazan, Omsk
    Portugal: Lisbon, Porto, Braga
    Egypt: Cairo, Alexandria, Luxor
    Mexico: Guadalajara, Monterrey, Cancun
    Poland: Warsaw, Krakow, Gdansk
    Sweden: Stockholm, Gothenburg, Uppsala
    Turkey: Istanbul, Ankara, Izmir
    """
)

ANTONYM_THEMES = tuple(
    tuple((pair.split("/")[0], pair.split("/")[1]) for pair in line.split())
    for line in """
    good/bad
    safe/dangerous
    rich/poor
    clean/dirty
    optimistic/pessimistic
    careful/careless
    friendly/unfriendly
    knowledgeable/ignorant
    interesting/uninteresting interesting/boring
    correct/incorrect right/wrong
    loyal/disloyal
    comfortable/uncomfortable
    tall/short
    healthy/sick healthy/unhealthy
    happy/sad happy/unhappy
    responsible/irresponsible
    rational/irrational
    honest/dishonest
    successful/unsuccessful
    strong/weak
    reliable/unreliable
    beautiful/ugly
    lucky/unlucky
    popular/unpopular
    brave/cowardly
    generous/stingy
    active/passive
    fast/slow
    patient/impatient
    polite/impolite
    hot/cold
    wet/dry
    awake/asleep
    famous/unknown
    guilty/innocent
    early/late
    loud/quiet
    young/old
    mature/immature
    organized/disorganized
    visible/invisible
    """.strip().splitlines()
)
"""A theme's pairs mean nearly the same (right, correct), so no line takes two words of one theme."""

TIMES = {
    "time": tuple(f"{hour} o'clock" for hour in range(1, 13)),
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "month": ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
              "November", "December"),
    "season": ("spring", "summer", "autumn", "winter"),
    "year": tuple(str(year) for year in range(1995, 2026)),
}  # fmt: skip
PREPOSITIONS = {"time": "at", "day": "on", "month": "in", "season": "in", "year": "in"}
