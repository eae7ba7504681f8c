"""What TFDS's metadata say of each public data set: what it is, where it comes from, and whom to cite."""

from typing import NamedTuple


class Entry(NamedTuple):
    description: str
    homepage: str
    citation: str


def _citation(key: str, author: str, title: str, where: str, year: int) -> str:
    fields = {"author": author, "title": title, "booktitle": where, "year": year}
    return f"@inproceedings{{{key},\n" + "".join(f"  {name}={{{value}}},\n" for name, value in fields.items()) + "}"


_EPIC = Entry(
    "EPIC-Kitchens-100: 700 unscripted first-person videos of kitchens, 97 verbs and 300 nouns.",
    "https://epic-kitchens.github.io",
    _citation(
        "damen2022rescaling",
        "Damen, Dima and Doughty, Hazel and Farinella, Giovanni Maria and others",
        "Rescaling Egocentric Vision: Collection, Pipeline and Challenges for EPIC-KITCHENS-100",
        "International Journal of Computer Vision",
        2022,
    ),
)

CATALOGUE: dict[str, Entry] = {
    "thumos": Entry(
        "THUMOS14: untrimmed sports videos, 20 actions; 200 to train on, 213 to test.",
        "https://www.crcv.ucf.edu/THUMOS14",
        _citation(
            "jiang2014thumos",
            "Jiang, Y.-G. and Liu, J. and Roshan Zamir, A. and Toderici, G. and Laptev, I. and Shah, M. and others",
            "THUMOS Challenge: Action Recognition with a Large Number of Classes",
            "ECCV Workshop",
            2014,
        ),
    ),
    "multithumos": Entry(
        "MultiTHUMOS: THUMOS14's videos with dense annotations of 65 actions.",
        "https://ai.stanford.edu/~syyeung/everymoment.html",
        _citation(
            "yeung2018every",
            "Yeung, Serena and Russakovsky, Olga and Jin, Ning and Andriluka, Mykhaylo and Mori, Greg and Fei-Fei, Li",
            "Every Moment Counts: Dense Detailed Labeling of Actions in Complex Videos",
            "International Journal of Computer Vision",
            2018,
        ),
    ),
    "anet": Entry(
        "ActivityNet-1.3: 20,000 videos from YouTube, 200 activities.",
        "http://activity-net.org",
        _citation(
            "caba2015activitynet",
            "Caba Heilbron, Fabian and Escorcia, Victor and Ghanem, Bernard and Niebles, Juan Carlos",
            "ActivityNet: A Large-Scale Video Benchmark for Human Activity Understanding",
            "CVPR",
            2015,
        ),
    ),
    "hacs": Entry(
        "HACS segments: 50,000 videos from YouTube with 140,000 segments of ActivityNet's 200 activities.",
        "https://github.com/hangzhaomit/HACS-dataset",
        _citation(
            "zhao2019hacs",
            "Zhao, Hang and Torralba, Antonio and Torresani, Lorenzo and Yan, Zhicheng",
            "HACS: Human Action Clips and Segments Dataset for Recognition and Temporal Localization",
            "ICCV",
            2019,
        ),
    ),
    "epic_verb": _EPIC,
    "epic_noun": _EPIC,
    "ego4d": Entry(
        "Ego4D moment queries: first-person clips of up to 8 minutes, 110 moments of daily life.",
        "https://ego4d-data.org",
        _citation(
            "grauman2022ego4d",
            "Grauman, Kristen and Westbury, Andrew and Byrne, Eugene and others",
            "Ego4D: Around the World in 3,000 Hours of Egocentric Video",
            "CVPR",
            2022,
        ),
    ),
    "charades": Entry(
        "Charades: 10,000 videos of daily activities at home, 157 actions.",
        "https://prior.allenai.org/projects/charades",
        _citation(
            "sigurdsson2016hollywood",
            "Sigurdsson, Gunnar A. and Varol, Gul and Wang, Xiaolong and Farhadi, Ali and others",
            "Hollywood in Homes: Crowdsourcing Data Collection for Activity Understanding",
            "ECCV",
            2016,
        ),
    ),
}
