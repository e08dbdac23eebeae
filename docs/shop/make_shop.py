"""A made-up shop: 3,000 products and 60,000 orders, the same ones each time.

    python docs/shop/make_shop.py [FOLDER]

It writes products.csv and orders.csv.gz. Nothing in them is real. Customers have a few categories
and brands that they like, buy things that go together one after the other, and prefer what is
popular. The last 250 products have just been added, and nobody has bought them.
"""

from __future__ import annotations

import csv
import gzip
import io
import random
import sys
from datetime import datetime, timedelta
from itertools import accumulate
from pathlib import Path

SEED = 2020
PRODUCTS, NEW, ORDERS = 3_000, 250, 60_000

# Category: its brands, what its products are like, and its kinds in the order in which one buys
# them.
CATEGORIES = {
    "Coffee": (
        "Altura, Crema & Co, Brewhaus, Monte Nero",
        "compact, classic, barista, everyday, premium, Italian-style, travel",
        "espresso machine, coffee grinder, espresso beans, milk frother, espresso cups, "
        "pour-over dripper, paper filters, moka pot",
    ),
    "Tea": (
        "Leaf & Kettle, Himalaya Garden, Kyoto House, Earl's",
        "organic, classic, fragrant, everyday, ceremonial, premium, traditional",
        "green tea, black tea, herbal tea, teapot, tea strainer, electric kettle, tea tin, "
        "matcha set",
    ),
    "Baking": (
        "Crumb, Oven Light, Rise & Shine, Mill Lane",
        "classic, professional, everyday, family, premium, rustic, beginner's",
        "stand mixer, bread flour, loaf tin, rolling pin, piping set, cake tin, cooling rack, "
        "proofing basket",
    ),
    "Cookware": (
        "Ferrum, Copperline, Hearth, Simmer",
        "copper, enamelled, cast iron, professional, classic, everyday, oven-safe",
        "frying pan, saucepan, Dutch oven, wok, stockpot, griddle, lid, cooking spoon set",
    ),
    "Camping": (
        "Northtrail, Basecamp, Fjordkit, Wild Mile",
        "lightweight, rugged, family, winter, packable, expedition, summer",
        "tent, sleeping bag, sleeping mat, camping stove, headlamp, water filter, camp chair, "
        "cooking pot",
    ),
    "Running": (
        "Stride, Pacer, Velo Run, Marathona",
        "trail, marathon, winter, women's, men's, race-day, everyday",
        "running shoes, running socks, running shorts, running jacket, hydration vest, "
        "sports watch, running cap, energy gels",
    ),
    "Cycling": (
        "Spoke, Chainring, Alpina Bike, Tarmac",
        "city, mountain, road, commuter, racing, touring, premium",
        "bike helmet, bike lock, bike lights, bike pump, cycling shorts, cycling gloves, "
        "inner tubes, chain oil",
    ),
    "Yoga": (
        "Lotus Lane, Stillpoint, Asana, Breathe",
        "cork, recycled, travel, soft, studio, beginner's, premium",
        "yoga mat, yoga block, yoga strap, meditation cushion, yoga leggings, foam roller, "
        "yoga towel, yoga bag",
    ),
    "Garden": (
        "Green Thumb, Old Orchard, Terra, Bloomfield",
        "organic, balcony, classic, heirloom, compact, professional, cottage",
        "plant pot, potting soil, pruning shears, watering can, tomato seeds, flower seeds, "
        "garden gloves, raised bed",
    ),
    "Skin care": (
        "Derma Lab, Alba, Rosewater, Pure Note",
        "gentle, fragrance-free, hydrating, vitamin C, hyaluronic, soothing, aloe",
        "face cleanser, face toner, face serum, moisturizer, sunscreen, eye cream, clay mask, "
        "lip balm",
    ),
    "Hair care": (
        "Silk & Root, Curl Theory, Botanica, Salon Nord",
        "argan, sulfate-free, repairing, volumizing, everyday, curly, keratin",
        "shampoo, conditioner, hair mask, hair oil, hair dryer, hair brush, styling gel, "
        "dry shampoo",
    ),
    "Bath": (
        "Soft Tide, Linen House, Nordic Bath, Foam",
        "bamboo, spa, lavender, sea salt, handmade, everyday, Turkish",
        "bath towel, bath mat, bath salts, bar soap, body lotion, shower gel, loofah, "
        "shower curtain",
    ),
    "Desk": (
        "Paperworks, Studio Oak, Inkwell, Focus",
        "leather, walnut, classic, studio, executive, minimalist, travel",
        "notebook, fountain pen, ink bottle, desk lamp, laptop stand, desk organizer, "
        "wrist rest, monitor arm",
    ),
    "Bedding": (
        "Dreamloft, Cotton Field, Nightfall, Cloud Nine",
        "linen, percale, hypoallergenic, cooling, winter, king-size, hotel",
        "duvet, duvet cover, pillow, pillowcase, fitted sheet, mattress topper, throw blanket, "
        "sleep mask",
    ),
    "Pets": (
        "Paw & Co, Whisker, Good Boy, Den",
        "puppy, senior, indoor, outdoor, premium, everyday, small-breed",
        "dog food, dog bed, dog leash, dog toy, cat food, cat litter, scratching post, cat toy",
    ),
    "Toys": (
        "Little Fox, Brickland, Playwood, Tinker",
        "wooden, magnetic, first, educational, classic, giant, travel",
        "building blocks, jigsaw puzzle, board game, plush toy, toy train, art set, science kit, "
        "card game",
    ),
}
SIZES = ("", "", "", "", ", small", ", large", ", set of 2", ", set of 4", ", gift edition")
SENTENCES = (
    "For everyday use.",
    "Made by {brand} for people who care about {category}.",
    "A {category} favorite of our customers.",
    "Goes well with our {other}.",
    "By {brand}, made to last.",
)


def products(draw: random.Random) -> list[dict]:
    """The products in the order in which the shop added them."""
    made, names = [], set()
    while len(made) < PRODUCTS:
        category = draw.choice(list(CATEGORIES))
        brands, qualities, kinds = (part.split(", ") for part in CATEGORIES[category])
        place = draw.randrange(len(kinds))
        brand, quality, kind = draw.choice(brands), draw.choice(qualities), kinds[place]
        name = f"{brand} {quality} {kind}{draw.choice(SIZES)}"
        if name in names:
            continue
        names.add(name)
        other = kinds[(place + 1) % len(kinds)]
        text = draw.choice(SENTENCES).format(brand=brand, other=other, category=category.lower())
        price = round(8 * 4 ** draw.random() * (1 + place % 3), 2)
        made.append(
            {"id": f"P{1000 + len(made)}", "name": name, "category": category, "brand": brand,
             "price": f"{price:.2f}", "description": text, "kind": place}
        )  # fmt: skip
    return made


def orders(draw: random.Random, made: list[dict]) -> list[tuple[str, str, str]]:
    """Customer, product and time of each order, sorted by time."""
    shelves: dict[tuple[str, int], list[dict]] = {}
    for product in made[:-NEW]:
        shelves.setdefault((product["category"], product["kind"]), []).append(product)
        product["popularity"] = 1 / (1 + draw.randrange(40))
    begin, found, customer = datetime(2024, 1, 1, 8), [], 0
    while len(found) < ORDERS:
        customer += 1
        likes = draw.sample(list(CATEGORIES), draw.choice((1, 2, 2, 3)))
        brands = {draw.choice(CATEGORIES[name][0].split(", ")) for name in likes * 2}
        when = begin + timedelta(minutes=draw.randrange(600 * 24 * 60))
        category, kind = draw.choice(likes), draw.randrange(8)
        bought: set[str] = set()
        for _ in range(min(1 + int(draw.expovariate(1 / 4.8)), 60)):
            shelf = [p for p in shelves[category, kind] if p["id"] not in bought]
            weights = [p["popularity"] * (6 if p["brand"] in brands else 1) for p in shelf]
            if shelf:
                product = draw.choices(shelf, cum_weights=list(accumulate(weights)))[0]
                bought.add(product["id"])
                found.append((f"C{10000 + customer}", product["id"], f"{when:%Y-%m-%d %H:%M:%S}"))
            when += timedelta(minutes=1 + int(draw.expovariate(1 / 9000)))
            change = draw.random()
            if change < 0.6:  # what goes with it
                kind = (kind + 1) % 8
            elif change < 0.9:
                category, kind = draw.choice(likes), draw.randrange(8)
            else:
                category, kind = draw.choice(list(CATEGORIES)), draw.randrange(8)
    return sorted(found[:ORDERS], key=lambda order: order[2])


def main(folder: Path) -> None:
    """Write both files into a folder."""
    draw = random.Random(SEED)
    made = products(draw)
    sold = orders(draw, made)
    fields = ["id", "name", "category", "brand", "price", "description"]
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "products.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fields, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(made)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([("customer", "sku", "ordered_at"), *sold])
    with open(folder / "orders.csv.gz", "wb") as file:
        file.write(gzip.compress(text.getvalue().encode(), mtime=0))
    print(f"{folder}: {len(made):,} products, {len(sold):,} orders")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
