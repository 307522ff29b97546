"""The filling of polygons against even-odd ray casting, one pixel at a time."""

import numpy as np
import pytest
from archives import aperio

from nnunetv2_selfreg.benchmarks.benchmark import CaseError
from nnunetv2_selfreg.benchmarks.monuseg import fill, read_polygons


def inside(corners, x, y):
    """Casts a ray from the point to the right and counts the edges that it crosses."""
    odd = False
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) / (y1 - y0) * (x1 - x0):
            odd = not odd
    return odd


def ray_cast(corners, rows, columns):
    return np.array([[inside(corners, c + 0.5, r + 0.5) for c in range(columns)] for r in range(rows)])


@pytest.mark.parametrize("seed", range(30))
def test_any_polygon_is_filled_as_ray_casting_fills_it(seed):
    """Random corners, so most polygons cross themselves and many reach beyond the picture on every side."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-8, 28, (rng.integers(3, 12), 2))
    expected = ray_cast(corners, 18, 22)
    assert np.array_equal(fill([corners], (18, 22)), expected.astype(np.uint16))


def test_a_pixel_belongs_when_its_centre_lies_inside():
    for corners, expected in (
        ([(1, 2), (3, 2), (3, 3), (1, 3)], [(2, 1), (2, 2)]),  # whole pixels
        ([(0.6, 0), (2.4, 0), (2.4, 1), (0.6, 1)], [(0, 1)]),  # the neighbours are cut beyond their centres
        ([(0.4, 0), (2.6, 0), (2.6, 1), (0.4, 1)], [(0, 0), (0, 1), (0, 2)]),
    ):
        assert np.argwhere(fill([np.array(corners, float)], (5, 5))).tolist() == [list(pixel) for pixel in expected]


def test_centres_on_edges_and_corners_belong():
    square = np.array([(0.5, 0.5), (2.5, 0.5), (2.5, 2.5), (0.5, 2.5)])
    assert fill([square], (4, 4)).tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]]


def test_what_is_enclosed_twice_lies_outside():
    outer = [(0, 0), (9, 0), (9, 9), (0, 9), (0, 0)]
    inner = [(3, 3), (6, 3), (6, 6), (3, 6), (3, 3), (0, 0)]
    filled = fill([np.array(outer + inner, float)], (9, 9))
    expected = np.ones((9, 9))
    expected[3:6, 3:6] = 0
    # the way to the inner square and back lies on centres: those on an edge belong
    assert np.array_equal(filled, expected)


def test_polygons_beyond_the_picture_and_of_few_corners_fill_nothing():
    beyond = [np.array([(x, y), (x + 5, y), (x, y + 5)], float) for x, y in ((-9, 2), (30, 2), (2, -9), (2, 30))]
    few = [np.zeros((0, 2)), np.array([(3.5, 3.5)]), np.array([(1.5, 1.5), (6.5, 6.5)])]
    assert not fill([*beyond, *few], (10, 10)).any()


def test_the_later_of_overlapping_instances_wins_and_numbers_count_all():
    square = np.array([(0, 0), (4, 0), (4, 4), (0, 4)], float)
    few = np.zeros((1, 2))
    assert fill([square, few, square + 2], (6, 6)).tolist() == [
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 3, 3, 3, 3],
        [1, 1, 3, 3, 3, 3],
        [0, 0, 3, 3, 3, 3],
        [0, 0, 3, 3, 3, 3],
    ]


def test_corners_are_read_as_they_stand(tmp_path):
    polygons = [[(1.25, -3), (1002, 7.5), (0, 0)], [], [(1, 2)]]
    aperio(tmp_path / "a.xml", polygons)
    read = read_polygons(tmp_path / "a.xml")
    assert [polygon.tolist() for polygon in read] == [[list(corner) for corner in polygon] for polygon in polygons]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no XML",
        "<Annotations><Annotation><Regions/></Annotation></Annotations>",
        "<Other/>",
        '<Annotations><Annotation><Regions><Region><Vertices><Vertex X="1"/></Vertices></Region></Regions></Annotation>'
        "</Annotations>",
        '<Annotations><Annotation><Regions><Region><Vertices><Vertex X="nan" Y="1"/></Vertices></Region></Regions>'
        "</Annotation></Annotations>",
    ],
)
def test_what_is_no_annotation_is_unreadable(text, tmp_path):
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(CaseError, match=r"a\.xml") as caught:
        read_polygons(tmp_path / "a.xml")
    assert caught.value.kind == "unreadable"


@pytest.mark.parametrize(
    "declaration",
    ['<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">', '<!ENTITY b SYSTEM "file:///etc/passwd">', "<!ELEMENT b ANY>"],
)
def test_entities_and_document_types_are_not_read(declaration, tmp_path):
    aperio(tmp_path / "a.xml", [[(0, 0), (1, 0), (1, 1)]])
    body = (tmp_path / "a.xml").read_text()
    (tmp_path / "a.xml").write_text(f"<!DOCTYPE Annotations [{declaration}]>{body}")
    with pytest.raises(CaseError, match="Forbidden"):
        read_polygons(tmp_path / "a.xml")
