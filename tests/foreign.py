"""Small files in the layouts that other projects left on disk, and what is in them.

Every function writes under `path` and returns the truth: {split: [utterance, …]} in file order,
an utterance being a dict of id, group, order (-1 where the layout has none), transcript, label and
the unpadded frames of text, audio and vision (no key: the layout has none). Readers do not import
this file, and it imports none of them.
"""

import builtins
import csv as csv_files
import io
import json
import os
import pickle
import re
import shlex
import zipfile

import numpy as np

SIZES = {"train": 6, "valid": 3, "test": 4}
VIDEOS = {  # of CMU-MOSI's own splits; some have "_" inside
    "train": ("03bSnISJMiM", "G6GlGvlkxAQ", "6_0THN4chvY"),
    "valid": ("_dI--eQ6qVU", "WKA5OygbEKI"),
    "test": ("f_pcplsH_V0", "tmZoasNr4rU"),
}
WORDS = "the movie wasn't that bad , I’d say très “good” for once".split()
DIMS = {"text": 12, "audio": 5, "vision": 7}
HOSTILE = ("system", "eval", "getattr", "inst", "torch", "array", "nested")  # "npz" is one too


def dumps(value, protocol):
    """A pickle with numpy 1's module names (`numpy.core`), as all the published files have."""
    file = io.BytesIO()
    pickler = pickle._Pickler(file, protocol)
    pickler.framer.start_framing = lambda: None  # frames would pin the lengths
    pickler.dump(value)
    data = file.getvalue()
    data = data.replace(b"cnumpy._core", b"cnumpy.core")  # protocols up to 3
    shorter = lambda m: bytes([0x8C, m[1][0] - 1]) + b"numpy.core"  # noqa: E731
    return re.sub(rb"\x8c(.)numpy\._core", shorter, data, flags=re.DOTALL)


def dump(value, path, protocol):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(dumps(value, protocol))


def savez(path, protocol=3, **values):
    """`np.savez_compressed` of Python objects, by numpy 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, value in values.items():
            head, array = io.BytesIO(), np.asarray(value, object)
            about = {"descr": "|O", "fortran_order": False, "shape": ()}
            np.lib.format.write_array_header_1_0(head, about)
            file.writestr(f"{name}.npy", head.getvalue() + dumps(array, protocol))


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)


def table(path, rows, **kw):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv_files.writer(file, **kw).writerows(rows)


def frames(rng, n, dim, dtype=np.float32):
    return rng.standard_normal((n, dim)).astype(dtype)


def padded(rows, length, front=False):
    zeros = np.zeros((length - len(rows), *rows.shape[1:]), rows.dtype)
    return np.concatenate([zeros, rows] if front else [rows, zeros])


def together(rows, lengths, front=False):
    long = dict(zip(DIMS, lengths, strict=True))
    return {m: np.stack([padded(u[m], k, front) for u in rows]) for m, k in long.items()}


def sentence(rng, words=None):
    return " ".join(rng.choice(WORDS, words or rng.integers(2, 9)))


def segments(split, n):
    """(video, segment): two of a video, not in order ("11" sorts before "2")."""
    videos, numbers = VIDEOS[split], (11, 2, 18, 9, 0, 30, 5, 14)
    return [(videos[i // 2 % len(videos)], numbers[i % 8] + i // 8 * 31) for i in range(n)]


def score(rng, low=-3, high=3):
    return float(np.float32(rng.integers(5 * low, 5 * high + 1) / 5))


def mmsa(path, rng, aligned=True, sims=False, quirks=False, sizes=SIZES, protocol=4):
    """MMSA's aligned_50.pkl, unaligned_50.pkl and (`sims`) unaligned_39.pkl.

    The vectors of the padding of `text` are not zeros: BERT ran over it. Aligned audio and vision
    have a row of zeros under [CLS] and [SEP]. `quirks` are those of MMSA-FET and of old files.
    """
    lengths = (14, 14, 14) if aligned else (14, 40, 25)
    data, truth = {}, {}
    for split, n in sizes.items():
        truth[split] = []
        bert, align = np.zeros((n, 3, lengths[0]), np.int64), []
        for i, (video, segment) in enumerate(segments(split, n)):
            words = lengths[0] - 2 if i == 0 else rng.integers(1, lengths[0] - 2)
            tokens = words + 2
            name, transcript = f"{video}$_${segment}", sentence(rng, words)
            if sims:
                video = f"video_{10 * list(sizes).index(split) + i // 2:04}"
                name, transcript = f"{video}$_${segment:04}", "这 部 电影 很 好"
            bert[i, 0, :tokens] = [101, *rng.integers(1000, 30000, words), 102]
            bert[i, 1, :tokens] = 1
            long = [tokens, tokens] if aligned else [rng.integers(1, k + 1) for k in lengths[1:]]
            if quirks and not aligned and i == 1:
                long[0] = 0
            one = dict(id=name, group=video, order=segment, transcript=transcript)
            one["label"] = score(rng, -1, 1) if sims else score(rng)
            one["text"] = frames(rng, tokens, DIMS["text"])
            one["audio"] = frames(rng, long[0], DIMS["audio"], np.float64 if quirks else np.float32)
            one["vision"] = frames(rng, long[1], DIMS["vision"])
            if aligned:
                one["audio"][[0, -1]] = one["vision"][[0, -1]] = 0
            if quirks and i == 0:
                one["audio"][1, 2] = -np.inf
            if sims:
                one |= {f"label_{m}": score(rng, -1, 1) for m in "TAV"}
            truth[split].append(one)
            align.append([{"word": w, "start": 0.5, "end": 0.7} for w in transcript.split()])
        labels = np.asarray([u["label"] for u in truth[split]], np.float32)
        ids, raw = ([u[k] for u in truth[split]] for k in ("id", "transcript"))
        arrays = together(truth[split], lengths)
        arrays["text"][bert[:, 1] == 0] = frames(rng, (bert[:, 1] == 0).sum(), DIMS["text"])
        out = {
            "raw_text": np.asarray(raw, object) if quirks else raw,
            **arrays,
            "id": [s.encode() for s in ids] if quirks else ids,
            "text_bert": bert.astype(np.float32) if quirks else bert,
            "annotations": [("Neutral", "Positive", "Negative")[int(np.sign(v))] for v in labels],
            "classification_labels": np.sign(labels) + 1,
            "regression_labels": labels[:, None] if quirks else labels,
        }
        for m in () if aligned else ("audio", "vision"):
            out[f"{m}_lengths"] = [len(u[m]) for u in truth[split]]
        for m in "TAV" if sims else "":
            values = [u[f"label_{m}"] for u in truth[split]]
            out[f"regression_labels_{m}"] = np.asarray(values, np.float32)
        data[split] = out | ({"align": align} if quirks else {})
    if quirks:
        data["config"] = {"audio": {"tool": "librosa", "args": {"mfcc": {"n_mfcc": 20}}}}
    dump(data, path, protocol)
    return truth


def mult(
    path, rng, corpus="mosei", aligned=True, front=True, quirks=False, sizes=SIZES, protocol=4
):
    """MulT's {mosei_senti,mosi,iemocap}_data[_noalign].pkl.

    Ids: mosei (video, start, end) str; mosi (video_segment, start, end) bytes; iemocap none.
    The third utterance has a row of zeros between real frames of vision (no face): not padding.
    """
    lengths = (12, 12, 12) if aligned else (12, 40, 25)
    data, truth = {}, {}
    for split, n in sizes.items():
        truth[split], ids, places = [], [], segments(split, n)
        for i, (video, segment) in enumerate(places):
            start, end = 4.5 * segment, 4.5 * segment + 3.25
            key = f"{video}_{segment}" if corpus == "mosi" else video
            ids.append([key, str(start), str(end)])
            words = lengths[0] if i == 0 else rng.integers(3, lengths[0])
            long = [words] * 3 if aligned else [words, *(rng.integers(3, k) for k in lengths[1:])]
            one = dict(id="_".join(ids[-1]), group=video, order=segment, transcript="")
            one |= {"start": start, "end": end, "label": score(rng)}
            if corpus == "mosei":  # time alone tells the order
                one["order"] = sum(v == video and s < segment for v, s in places)
            if corpus == "iemocap":
                one = dict(id="", group="", order=-1, transcript="")
                one["label"] = rng.integers(0, 2, 4).astype(np.float32)
            for (m, dim), k in zip(DIMS.items(), long, strict=True):
                one[m] = frames(rng, k, dim, np.float32 if m == "text" else np.float64)
            if i == 2:
                one["vision"][1] = 0
            if quirks and i == 0:
                one["audio"][1, 2] = -np.inf
            truth[split].append(one)
        out = together(truth[split], lengths, front)
        labels = np.stack([u["label"] for u in truth[split]])
        if corpus == "iemocap":
            out["labels"] = np.stack([1 - labels, labels], axis=-1).astype(np.int64)
        else:
            out["labels"] = labels.astype(np.float32)[:, None, None]
            out["id"] = np.asarray(ids).astype("S") if corpus == "mosi" else np.asarray(ids)
        data[split] = out
    dump(data, path, protocol)
    return truth


def misa(path, rng, style="misa", corpus="mosi", emotions=False, sizes=SIZES, protocol=4):
    """Lists of tuples. misa and mmim: a folder of train, dev and test.pkl; magbert: one file.

    misa (words as numbers, vision, audio, words); mmim ([], vision, audio, words, two lengths),
    not aligned, where a mosei segment is only its video; magbert (words, vision, audio).
    """
    data, truth = {}, {}
    for split, n in sizes.items():
        rows, truth[split] = [], []
        for video, segment in segments(split, n):
            words = sentence(rng).split()
            name, order, long = f"{video}[{segment}]", segment, [len(words)] * 2
            if style == "mmim":
                name, order = (video, -1) if corpus == "mosei" else (f"{video}_{segment}", segment)
                long = rng.integers(1, 30, 2)
            label = [score(rng), *(score(rng, 0, 3) for _ in range(6))]
            label = np.asarray([label if emotions else label[:1]], np.float32)
            one = dict(id=name, group=video, order=order, transcript=" ".join(words))
            one["label"] = label[0] if emotions else float(label[0, 0])
            one["vision"] = frames(rng, long[0], DIMS["vision"])
            one["audio"] = frames(rng, long[1], DIMS["audio"], np.float64)
            truth[split].append(one)
            both, numbers = (one["vision"], one["audio"]), [2 + WORDS.index(w) for w in words]
            members = {
                "misa": (np.asarray(numbers), *both, words),
                "mmim": ([], *both, words, np.int64(long[0]), np.int64(long[1])),
                "magbert": (words, *both),
            }
            rows.append((members[style], label, name))
        data["dev" if split == "valid" else split] = rows
    if style == "magbert":
        dump(data, path, protocol)
    else:
        for split, rows in data.items():
            dump(rows, path / f"{split}.pkl", protocol)
        (path / "embedding_and_mapping.pt").write_bytes(b"PK\x03\x04 of torch, of no use to us")
    return truth


def csd(path, rng, videos=VIDEOS["train"][:2], n=3, shuffled=False, quirks=False):
    """CMU-MultimodalSDK: whole videos; the labels' intervals cut them. One split, "all".

    The last segment of each video has no frame of vision. `shuffled`: the labels are not in order
    of time, as in CMU-MOSEI. `quirks`: -inf in audio; the last video is not in the vision file.
    """
    import h5py

    files, truth = {k: {} for k in (*DIMS, "words", "labels")}, []
    for video in videos:
        starts = 0.5 + np.cumsum(rng.uniform(4, 6, n))
        labels = np.stack([starts, starts + 3.3], axis=1)[:: -1 if shuffled else 1]
        values = np.asarray([[score(rng)] for _ in range(n)], np.float32)
        edges = np.sort(np.append(np.arange(0, starts[-1] + 5, 0.37), starts))  # words cut there
        spans = np.stack([edges[:-1], edges[1:]], axis=1)
        words = rng.choice([w for w in WORDS if w.isalpha()], len(spans))
        words[::4] = "sp"  # a pause; it has no word vector
        said = spans[words != "sp"]
        clock = np.arange(0, starts[-1] + 5, 0.11)
        clock = np.stack([clock, clock + 0.11], axis=1)
        seen = clock[clock[:, 1] < starts.max() - 0.2]
        files["words"][video] = (np.char.encode(words, "utf-8").astype("S32")[:, None], spans)
        files["text"][video] = (frames(rng, len(said), 8, np.float64), said)
        files["audio"][video] = (frames(rng, len(clock), 6), clock)
        files["vision"][video] = (frames(rng, len(seen), 5), seen)
        files["labels"][video] = (values, labels)
        if quirks:
            files["audio"][video][0][60, 1] = -np.inf
            if video == videos[-1]:
                files["vision"].pop(video)
        for i, (start, end) in enumerate(labels):
            one = dict(id=f"{video}[{i}]", group=video, order=int((starts < start).sum()))
            one |= dict(start=float(start), end=float(end), label=float(values[i, 0]))
            for m in (*DIMS, "words"):
                features, times = files[m].get(video, (np.zeros((0, 5), np.float32), clock[:0]))
                inside = (times[:, 0] < end) & (times[:, 1] > start)
                one[m], one[f"{m}_intervals"] = features[inside], times[inside]
            kept = [w.decode() for w in one["words"][:, 0] if w != b"sp"]
            truth.append(one | {"transcript": " ".join(kept)})
    names = {
        "words": ("words", "TimestampedWords"),
        "text": ("glove_vectors", "TimestampedWordVectors"),
        "audio": ("COVAREP", "COVAREP"),
        "vision": ("FACET_4.2", "Visual_Facet_42"),
        "labels": ("Opinion Segment Labels", "Opinion_Labels"),
    }
    path.mkdir(parents=True)
    for key, (root, name) in names.items():
        with h5py.File(path / f"CMU_MOSI_{name}.csd", "w") as file:
            for video, (features, times) in files[key].items():
                group = file.create_group(f"{root}/data/{video}")
                group.create_dataset("features", data=features, compression="gzip")
                group.create_dataset("intervals", data=times, compression="gzip")
            metadata = file.create_group(f"{root}/metadata")
            about = {"root name": root, "dimension names": ["x"], "alignment compatible": True}
            for item, value in (about | {"dataset name": "CMU-MOSI", "md5": None}).items():
                metadata.create_dataset(item, (1,), dtype=h5py.special_dtype(vlen=str))
                metadata[item][0] = json.dumps(value)
    return {"all": truth}


def mertools(path, rng, corpus="iemocap", level="FRA", quirks=False, sizes=SIZES):
    """MERBench. iemocap: label_4way.npz, one split "all", to be cut by session (`vid[4]`).

    Quirks: one name's vision is a folder of an array per face; one text is a lone row of zeros
    (no words were said); one audio is [1, T, D].
    """
    extractors = ("bert-base-cased", "wav2vec2-large-960h", "clip-vit-large-patch14")
    truth, corpora = {}, {}
    if corpus == "iemocap":
        sizes = {"all": max(5, sum(sizes.values()))}
    for split, n in sizes.items():
        truth[split] = []
        for i in range(n):
            if corpus == "iemocap":
                group, order = f"Ses0{i % 5 + 1}{'FM'[i % 2]}_impro0{i // 5 + 1}", -1
                name, label = f"{group}_F{i // 10:03}", int(rng.integers(0, 4))
            else:
                group, order = segments(split, n)[i]
                name, label = f"{group}_{order}", score(rng)
            one = dict(id=name, group=group, order=order, label=label, transcript=sentence(rng))
            for j, (m, dim) in enumerate(DIMS.items()):
                rows = frames(rng, 1 if level == "UTT" else rng.integers(2, 20), dim)
                file = path / "features" / f"{extractors[j]}-{level}" / f"{name}.npy"
                stored = rows[0] if level == "UTT" else rows
                if quirks and i == j == 0:
                    stored = rows = np.zeros((1, dim))  # float64
                    one["transcript"] = ""
                elif quirks and i == 0 and m == "audio":
                    stored = rows[None]
                one[m] = rows
                if quirks and i == 1 and m == "vision" and level == "FRA":
                    for k, row in enumerate(rows):
                        save(file.with_suffix("") / f"{name}_{k:06}.npy", row)
                else:
                    save(file, stored)
            truth[split].append(one)
        labels = {u["id"]: {"emo": 0, "val": np.float64(u["label"])} for u in truth[split]}
        if corpus == "iemocap":
            labels = {u["id"]: {"emo": u["label"], "val": -10} for u in truth[split]}
        corpora[{"all": "whole", "valid": "val"}.get(split, split) + "_corpus"] = labels
    savez(path / ("label_4way.npz" if corpus == "iemocap" else "label.npz"), **corpora)
    said = [(u["id"], u["transcript"]) for rows in truth.values() for u in rows]
    said = [("name", "english"), ("nobody", "It has no label, this one."), *said[::-1]]
    rows = said if corpus == "iemocap" else [(k, "chinese", s) for k, s in said]
    table(path / "transcription.csv", rows, lineterminator="\n")
    return truth


def emobox(path, rng, corpus="iemocap", quirks=False, sizes=None):
    """data/<corpus>/… of EmoBox and dump/<corpus>/<model>/<key>.npy. No valid in iemocap.

    `quirks`: the first of each split is over 30 s, so EmoBox's extractor left its file out.
    """
    meld = corpus == "meld"
    names = {"neu": "Neutral", "hap": "Happy", "ang": "Angry", "sad": "Sad", "exc": "Happy"}
    if meld:
        names = {"neutral": "Neutral", "joy": "Happy", "sadness": "Sad", "anger": "Angry"}
    sizes = sizes or (SIZES if meld else {"train": 6, "test": 4})
    home, truth = path / "data" / corpus, {}
    for split, n in sizes.items():
        lines, truth[split] = [], []
        for i in range(n):
            session = 1 if split == "test" else 2 + i % 4
            group, order = f"Ses0{session}F_impro04", -1
            name, rate = f"{group}_{'FM'[i % 2]}{i:03}", 16000
            wav = f"downloads/iemocap/Session{session}/sentences/wav/{group}/{name}.wav"
            if meld:  # the dialogues are numbered anew in each split
                end, order, rate = "dev" if split == "valid" else split, i % 2, 48000
                group, name = f"dia{i // 2}-{end}", f"dia{i // 2}_utt{order}-{end}"
                wav = f"downloads/meld/{name}.mp4"
            long, emotion = 1.5 + i / 7, list(names)[rng.integers(len(names))]
            one = dict(id=f"{corpus}-{name}", group=group, order=order, transcript="")
            one |= dict(label=names[emotion], emo=emotion)
            if quirks and i == 0:
                long = 31.25
            else:
                one["audio"] = frames(rng, rng.integers(2, 20), DIMS["audio"])
                save(path / "dump" / corpus / "wav2vec2-base" / f"{one['id']}.npy", one["audio"])
            truth[split].append(one)
            line = {"key": one["id"], "dataset": corpus, "wav": wav, "type": "raw"}
            line |= {"sample_rate": rate, "num_frame": long * rate, "task": "category"}
            lines.append(line | {"length": long, "emo": emotion, "channel": 3 if meld else 1})
        fold = home / "fold_1" / f"{corpus}_{split}_fold_1.jsonl"
        fold.parent.mkdir(parents=True, exist_ok=True)
        fold.write_text("".join(json.dumps(line) + "\n" for line in lines))
        keyed = {x["key"]: {k: x[k] for k in ("wav", "length", "emo")} for x in lines}
        fold.with_suffix(".json").write_text(json.dumps(keyed, indent=4))
    (home / "label_map.json").write_text(json.dumps(names, indent=4))
    return truth


def sseft(path, rng, corpus="iemocap", sizes=SIZES):
    """SSE-FT's T_data, with features beside it. iemocap: the test is valid and then its own."""
    truth = {}
    for split, n in sizes.items():
        truth[split] = []
        for i, (video, segment) in enumerate(segments(split, n)):
            label, group, order, name = score(rng), video, segment, f"{video}_{segment}"
            if corpus == "iemocap":
                label, session = rng.choice(["neu", "sad", "ang", "hap", "exc"]), i % 4 + 1
                session, order = (session if split == "train" else 5), -1
                start = {"train": 1299, "valid": 55, "test": 558}[split]
                name, group = f"{start + i}_s_{session}_{label}", f"s_{session}"
            one = dict(id=name, group=group, order=order, transcript="")
            one["label"] = str(label) if corpus == "iemocap" else label
            for m, dim in DIMS.items():
                one[m] = frames(rng, rng.integers(1, 20), dim)
                save(path / m / f"{name}.npy", one[m])
            truth[split].append(one)
    if corpus == "iemocap":
        truth["test"] = truth["valid"] + truth["test"]
    column = "Emotion" if corpus == "iemocap" else "sentiment_score"
    for split, rows in truth.items():
        for folder, end in {"audio": "wav", "text": "txt", "video_face": "mp4"}.items():
            lines = [f"/home/gsir059/Documents/{corpus}_data/{split}/{folder}/"]
            lines += [f"{u['id']}.{end}" for u in rows]
            (path / f"{split}_{folder[0]}.tsv").write_text("\n".join(lines))
        lines = [f"FileName,{column}", *(f"{u['id']},{u['label']}" for u in rows)]
        (path / f"label_file_{split}.csv").write_bytes("\r\n".join(lines).encode())
    return truth


def npy(path, rng, sizes=SIZES):
    """Our own: table.csv and <modality>/<id>.npy. Train's second has no audio file, its third
    no frame of vision."""
    truth, rows = {}, [("id", "split", "group", "label", "transcript")]
    for split, n in sizes.items():
        truth[split] = []
        for i, (video, segment) in enumerate(segments(split, n)):
            one = dict(id=f"{video}_{segment}", group=video, order=-1, label=score(rng))
            one["transcript"] = sentence(rng)
            for m, dim in DIMS.items():
                if (split, i, m) == ("train", 1, "audio"):
                    continue
                long = 0 if (split, i, m) == ("train", 2, "vision") else rng.integers(1, 20)
                one[m] = frames(rng, long, dim)
                save(path / m / f"{one['id']}.npy", one[m])
            truth[split].append(one)
            rows.append((one["id"], split, video, one["label"], one["transcript"]))
    table(path / "table.csv", rows)
    return truth


class Call:
    """Pickles as a call of `function`, which may be a Call."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced

    def __call__(self):  # pickle wants a callable
        raise AssertionError


def hostile(path, kind, marker, protocol=4):
    """A pickle that creates the file `marker` when it is loaded with `pickle.load`."""
    command = f"touch {shlex.quote(str(marker))}"
    call = Call(os.system, command)
    if kind == "npz":  # as MERBench's label.npz
        return savez(path, whole_corpus={"a": {"emo": call}})
    if kind == "inst":  # an opcode of protocol 0, a call by itself
        return path.write_bytes(f"(V{command}\nios\nsystem\n.".encode())
    if kind == "torch":  # what pickled tensors call; it unpickles its argument with all allowed
        inner = pickle.dumps(call, 2)
        code = b"\x80\x04ctorch.storage\n_load_from_bytes\nB" + len(inner).to_bytes(4, "little")
        return path.write_bytes(code + inner + b"\x85R.")
    value = {
        "system": call,
        "eval": Call(eval, f"__import__('os').system({command!r})"),
        "getattr": Call(Call(getattr, Call(builtins.__import__, "os"), "system"), command),
        "array": np.asarray([1, None, call], object),
        "nested": {"train": {"id": ["a"], "text": np.zeros((1, 2, 3)), "extra": [({"x": call},)]}},
    }[kind]
    return dump(value, path, protocol)
