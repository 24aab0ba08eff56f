"""The words of the tasks' sentences: common English words, of which a tokenizer knows some as single tokens."""

NOUNS = (
    "account", "act", "action", "agent", "amendment", "animal", "answer", "area", "army", "article", "artist",
    "author", "bank", "bill", "bird", "boat", "bond", "book", "boy", "bridge", "brother", "building", "car", "case",
    "cat", "cause", "chair", "chief", "citizen", "claim", "condition", "contract", "cost", "court", "custom",
    "dancer", "daughter", "day", "debt", "decision", "department", "doctor", "dog", "dollar", "driver", "effort",
    "election", "engine", "event", "farmer", "father", "flower", "force", "friend", "fund", "garden", "girl",
    "goal", "government", "guard", "hand", "horse", "hotel", "house", "idea", "industry", "institution", "interest",
    "island", "issue", "job", "judge", "king", "lake", "law", "lawyer", "leader", "letter", "limit", "line", "loan",
    "market", "measure", "member", "method", "minister", "mother", "nation", "neighbor", "number", "nurse",
    "object", "offer", "officer", "official", "order", "parent", "payment", "person", "pilot", "plan", "plant",
    "player", "poet", "port", "power", "president", "price", "principle", "problem", "product", "program",
    "project", "proposal", "purpose", "question", "railroad", "rate", "reason", "record", "reform", "report",
    "result", "right", "river", "road", "rule", "school", "senator", "service", "ship", "sister", "soldier", "son",
    "song", "standard", "state", "step", "student", "subject", "system", "table", "teacher", "term", "train",
    "tree", "vessel", "vote", "war", "weapon", "window", "word", "worker", "year",
)  # fmt: skip
"""Nouns whose plural ends in a plain `s`, but for those in `PLURALS`."""

PLURALS = {"army": "armies", "industry": "industries"}

AGREEING_VERBS = (("is", "are"), ("was", "were"), ("has", "have"))
"""Singular and plural forms that may follow any subject."""

PREPOSITIONS = ("of", "near", "behind", "for", "with", "from", "against", "under", "above", "beside")

RELATIVE_VERBS = (
    "made", "helped", "wanted", "needed", "saw", "met", "gave", "found", "knew", "held", "sent", "called", "left",
    "followed", "liked", "feared", "admired", "supported", "required", "received", "opposed", "protected",
)  # fmt: skip
"""Past forms of verbs that take an object; they do not show the number of their own subject."""

NAMES = (
    (
        "Mary", "John", "James", "Tom", "Anna", "Paul", "Peter", "Sarah", "David", "Laura", "Mark", "Kate", "Jack",
        "Emma", "Henry", "Alice", "George", "Jane", "Robert", "Susan", "William", "Lisa", "Simon", "Martin", "Maria",
        "Thomas", "Charles", "Daniel", "Michael", "Adam", "Helen", "Richard", "Andrew", "Frank", "Rachel", "Kevin",
    ),
    (
        "Congress", "Mexico", "Spain", "France", "Britain", "China", "Japan", "Russia", "Germany", "Cuba", "Texas",
        "America", "Europe", "Panama", "Canada", "Korea", "Iraq", "California", "Washington", "Nicaragua", "Vietnam",
        "Africa", "Asia", "Italy", "India", "England", "Egypt", "Israel", "Poland", "Greece", "Chile", "Peru", "Brazil",
    ),
)  # fmt: skip
"""Names of people, and of places and bodies that a text speaks of as of people; those of one sentence are of a kind."""

MEETING_VERBS = ("met", "worked", "stood", "spoke", "came", "remained", "talked", "fought")
"""What two parties do together."""

GIVING_VERBS = ("gave", "sent", "offered", "brought", "granted", "sold", "paid", "made")
"""What one party does with a thing, before `to` the other."""

THINGS = (
    "money", "paper", "letter", "land", "book", "gift", "bill", "report", "power", "peace", "gold", "food", "loan",
    "ship", "weapon", "claim", "payment", "message", "treaty", "answer", "offer",
)  # fmt: skip
