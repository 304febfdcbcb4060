"""Segments of a folder: a second call continues, and the network of the shape loss learns."""

import numpy as np
import pytest
import torch
from PIL import Image

from clip_es import rle
from clip_es.encoder import load_encoder
from clip_es.errors import ConfigError, DataError
from clip_es.pipelines.cli import main
from clip_es.pipelines.segments import SegmentFolder, enlarge
from clip_es.pipelines.shape_net import ShapeNetConfig, moved, outlines, train_shape_net
from clip_es.scenes.dataset import ScenesConfig, make
from clip_es.segmentor.losses.shape import read_inverse_net
from clip_es.store.regions import read_parts, regions_of, write_parts
from clip_es.store.tables import read_json


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(2):
        array = np.full((64, 80, 3), 40, dtype=np.uint8)
        array[:, 40 + 16 * i :] = 220
        Image.fromarray(array).save(folder / f"p{i}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def test_regions_and_sides_have_the_size_of_their_pictures_and_a_second_call_continues(pictures, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["segments", str(pictures), "--weights", "scenes", "--device", "cpu", "--export", "rle", "--segments", "2"]
    assert main([*words, "--out", str(out)]) == 1
    assert "broken" in capsys.readouterr().out
    folder = SegmentFolder(out)
    regions = folder.regions("p0")
    assert regions.shape == (64, 80)
    assert regions.unique().tolist() == [0, 1]
    sides = folder.sides("p0")
    assert sides.shape == (5, 64, 80)
    first = sides[0].float()
    assert abs(float(first[:, :24].mean() - first[:, 56:].mean())) > 0.9, "the first eigenvector parts the two halves"
    held = read_json(out / "rle.json")["p0"][0]
    assert np.array_equal(rle.decode(held["counts"], tuple(held["size"])), sides[0].numpy())
    stamp = (out / "regions" / "p0.png").stat().st_mtime_ns
    main([*words, "--out", str(out)])
    assert (out / "regions" / "p0.png").stat().st_mtime_ns == stamp
    assert main([*words, "--nodes", "1", "--out", str(out)]) == 2
    assert "other settings" in capsys.readouterr().err


def test_segments_that_are_not_there_are_named(tmp_path):
    with pytest.raises(DataError, match="no folder of segments"):
        SegmentFolder(tmp_path)
    folder = SegmentFolder(tmp_path, {"any": 1})
    with pytest.raises(DataError, match="has no segments"):
        folder.regions("p0")
    with pytest.raises(DataError, match="has no segments"):
        folder.sides("p0")


def test_a_grid_is_enlarged_by_the_nearest_cell():
    assert enlarge(torch.tensor([[[1, 2]]]), (1, 5))[0].tolist() == [[1, 1, 2, 2, 2]]


def test_an_outline_is_moved_by_the_share_it_is_told():
    rng = np.random.default_rng(0)
    one = outlines(1, 40, rng)
    other = moved(one, torch.tensor([[0.5, 0.0, 0.0, 0.0]]), 0.4, 0.4)
    torch.testing.assert_close(other[0, 4:], one[0, :-4], rtol=0, atol=1e-4), "0.5 x 0.4 of half a side of 20"
    torch.testing.assert_close(moved(one, torch.zeros(1, 4), 0.4, 0.4), one, rtol=0, atol=1e-5)


def test_the_shape_network_tells_more_of_what_moved_more_and_parts_are_the_whole(tmp_path):
    config = ShapeNetConfig(side=16, hidden=(64, 16), steps=150, batch=32, save_every=50)
    path, lengths = train_shape_net(config, tmp_path / "whole")
    assert lengths["same"] < 0.6 * lengths["far"]
    assert lengths["same"] < lengths["near"] < lengths["far"]
    train_shape_net(config, tmp_path / "parts", stop_after=70)
    again, _ = train_shape_net(config, tmp_path / "parts")
    one, other = read_inverse_net(path).state_dict(), read_inverse_net(again).state_dict()
    assert all(torch.equal(value, other[key]) for key, value in one.items())
    with pytest.raises(ConfigError, match="at least 8"):
        ShapeNetConfig(side=4)


def disc(side, down, right, radius=0.4):
    """A soft outline of a disc; places in half sides from the middle."""
    place = (2 * torch.arange(side) + 1) / side - 1
    away = torch.hypot(place[:, None] - down, place[None, :] - right) - radius
    return torch.exp(-((away * side / 3) ** 2))[None, None]


@pytest.mark.slow
def test_the_shape_loss_of_a_trained_network_falls_as_a_disc_is_moved_to_its_place(tmp_path):
    """The network is trained on outlines of other shapes; the disc has one tile for itself."""
    config = ShapeNetConfig(side=24, hidden=(96, 16), steps=300, batch=48, save_every=300)
    path, _ = train_shape_net(config, tmp_path)
    net = read_inverse_net(path)
    target = disc(24, 0.0, 0.0).flatten(1)
    with torch.no_grad():
        lengths = [float(net(disc(24, by, by / 2).flatten(1), target).norm()) for by in (0.0, 0.1, 0.2, 0.3)]
    assert lengths == sorted(lengths)
    assert lengths[0] < 0.5 * lengths[-1]
    # Descending on the loss itself brings a disc back, with all else as it was.
    place = torch.tensor([0.3, -0.2], requires_grad=True)
    optimiser = torch.optim.Adam([place], lr=0.02)
    for _ in range(60):
        optimiser.zero_grad()
        net(disc(24, place[0], place[1]).flatten(1), target).norm().backward()
        optimiser.step()
    assert float(place.detach().norm()) < 0.5 * (0.3**2 + 0.2**2) ** 0.5


def test_the_encoder_is_not_needed_to_read_segments(tmp_path):
    folder = SegmentFolder(tmp_path, {"encoder": load_encoder("scenes", device="cpu").source})
    folder.save("a", torch.tensor([[0, 1], [2, 3]]), torch.tensor([[[True, False], [False, False]]]))
    assert folder.has("a")
    assert SegmentFolder(tmp_path).regions("a").tolist() == [[0, 1], [2, 3]]
    assert SegmentFolder(tmp_path).sides("a").tolist() == [[[True, False], [False, False]]]


@pytest.mark.parametrize(("source", "export"), [("felzenszwalb", "png"), ("slic", "rle")])
def test_superpixels_of_a_folder_vote_in_a_run(tmp_path, capsys, source, export):
    folder = make(tmp_path / "scenes", ScenesConfig(train=0, val=2, side=(64, 64)))
    words = ["segments", str(folder / "JPEGImages"), "--source", source, "--export", export]
    words += ["--out", str(tmp_path / "out")]
    assert main(words) == 0
    suffix = ".png" if export == "png" else ".json"
    written = {path.name: path.read_bytes() for path in (tmp_path / "out/regions").iterdir()}
    assert set(written) == {f"val_00000{k}{suffix}" for k in range(2)}
    assert main(words) == 0
    assert "2 done before" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in (tmp_path / "out/regions").iterdir()} == written
    size = (64, 64)
    regions = regions_of(tmp_path / "out/regions", "val_000000", size)
    assert sum(regions.areas) == 64 * 64
    assert main([*words, "--superpixels.count", "7", "--superpixels.sigma", "2"]) == 2
    assert "segments made with other settings" in capsys.readouterr().err


def test_parts_beyond_255_are_written_with_16_bits_and_come_back(tmp_path):
    parts = np.arange(600).reshape(20, 30)
    write_parts(tmp_path / "one.png", parts)
    regions = read_parts(tmp_path / "one.png", (20, 30))
    assert len(regions) == 600
    assert regions.mask(599)[19, 29]
    with pytest.raises(DataError, match="parts apart"):
        write_parts(tmp_path / "two.png", np.array([[70_000]]))
