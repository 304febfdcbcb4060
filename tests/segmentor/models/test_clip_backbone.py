"""The frozen CLIP as a backbone: its maps, and the ways in which it says what a patch is."""

import pytest
import torch
import torch.nn.functional as F

from clip_es.config.methods import CliperConfig
from clip_es.encoder import load_encoder
from clip_es.encoder.capture import enter, watch
from clip_es.localize.cliper.layers import read_layers, see
from clip_es.segmentor.models.clip_members import BESIDE_LAYERS, clip_members, member_count


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("scenes", device="cpu")


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(2, 3, 48, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def members(encoder, pixels):
    tower = encoder.model.visual
    with torch.no_grad():
        sights = list(watch(tower.transformer.blocks, enter(encoder, pixels)))
    found = clip_members(tower, sights, (3, 4))
    return found.unflatten(1, (-1, encoder.sizes.embed))


def test_members_are_unit_embeddings_of_every_patch(encoder, members):
    assert members.shape == (2, member_count(encoder.sizes.layers), encoder.sizes.embed, 3, 4)
    torch.testing.assert_close(members.norm(dim=2), torch.ones((*members.shape[:2], 3, 4)))


def test_the_first_member_is_the_last_tokens_and_the_class_token_is_the_same_everywhere(encoder, pixels, members):
    tower = encoder.model.visual
    with torch.no_grad():
        tokens = enter(encoder, pixels)
        for block in tower.transformer.blocks:
            tokens = block(tokens)
        own = F.normalize(tower.ln_post(tokens) @ tower.proj, dim=-1)
    torch.testing.assert_close(members[:, 0].flatten(2), own[:, 1:].mT, rtol=0, atol=1e-4)
    whole = members[:, -3]
    torch.testing.assert_close(whole, own[:, 0][:, :, None, None].expand_as(whole), rtol=0, atol=1e-4)


def test_layers_are_those_of_cliper(encoder, pixels, members):
    for picture, found in zip(pixels.split(1), members, strict=True):
        read = read_layers(encoder, see(encoder, picture), CliperConfig())
        layers = F.normalize(read.layers[:, 1:], dim=-1)
        torch.testing.assert_close(found[1 : 1 - BESIDE_LAYERS].flatten(2), layers.mT, rtol=0, atol=2e-3)
        spread = F.normalize(read.patch_attention.mT @ layers[-1], dim=-1)
        torch.testing.assert_close(found[-2].flatten(1), spread.T, rtol=0, atol=2e-3)


@pytest.mark.filterwarnings("ignore")  # mmsegmentation's own.
def test_the_backbone_gives_them_behind_its_maps(pixels, encoder, members):
    pytest.importorskip("mmseg")
    from clip_es.segmentor.training.compat import prepare

    prepare()
    from clip_es.segmentor.models.clip_backbone import FrozenClip

    backbone = FrozenClip("scenes", blocks=(2, encoder.sizes.layers), stem=8, members=True)
    maps = backbone(pixels)
    assert [tuple(part.shape[1:]) for part in maps[:3]] == [(8, 12, 16), (192, 3, 4), (192, 3, 4)]
    torch.testing.assert_close(maps[3].unflatten(1, members.shape[1:3]), members, rtol=0, atol=1e-4)
    plain = FrozenClip("scenes", blocks=(2, encoder.sizes.layers), stem=8, project=True)(pixels)
    torch.testing.assert_close(maps[2], plain[2], rtol=0, atol=1e-3)
    torch.testing.assert_close(F.normalize(plain[3], dim=1), members[:, 0], rtol=0, atol=1e-3)


@pytest.mark.filterwarnings("ignore")  # mmsegmentation's own.
def test_a_picture_that_is_not_whole_patches_ends_in_no_black_cells():
    pytest.importorskip("mmseg")
    from clip_es.segmentor.training.compat import prepare

    prepare()
    from clip_es.segmentor.models.clip_backbone import FrozenClip

    backbone = FrozenClip("scenes", blocks=(2, 4), stem=8, project=True).eval()
    colour = torch.tensor([0.8, -0.5, 0.3])[:, None, None]
    odd, whole = (backbone(colour.expand(3, *size)[None]) for size in ((41, 57), (48, 64)))
    for ours, theirs in zip(odd, whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
