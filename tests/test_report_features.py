"""What is computed from feature vectors: the map, distances, neighbours, near duplicates, health."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipelines.report import duplicates, features, sampling
from pipelines.report.rows import Image, Rows


def images(count: int) -> tuple[Image, ...]:
    return tuple(
        Image(f"/photos/{number:04d}.jpg", "1", f"{number:064x}", 0, None) for number in range(count)
    )


def vectors(count: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


@pytest.mark.parametrize("width", [2, 5, 300])
def test_the_map_is_the_singular_value_decomposition_s(width: int) -> None:
    values = vectors(60, width) * np.linspace(3, 1, width, dtype=np.float32) + 100
    places = features.pca_map(images(60), values)
    centred = values - values.mean(axis=0)
    left, singular, _ = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    by_uri = {point.image.uri: (point.x, point.y) for point in places.points}
    mine = np.array([by_uri[image.uri] for image in images(60)])
    np.testing.assert_allclose(np.abs(mine), np.abs(left[:, :2] * singular[:2]), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(places.explained, (singular**2 / (singular**2).sum())[:2], rtol=1e-4)


def test_a_map_of_one_dimension_is_a_line() -> None:
    places = features.pca_map(images(4), np.array([[1.0], [2.0], [3.0], [4.0]], np.float32))
    assert places.explained == pytest.approx((1.0, 0.0))
    assert {point.y for point in places.points} == {0.0}


def test_the_points_that_are_pointed_at_come_first_and_are_those_that_are_picked() -> None:
    places = features.pca_map(images(50), vectors(50, 3))
    first = {point.image.uri for point in places.points[:7]}
    assert first == {image.uri for image in sampling.pick(images(50), 7, lambda image: image.uri)}


def test_distances_are_those_of_each_pair() -> None:
    values = vectors(30, 8) + 1000
    expected = np.linalg.norm(values[:, None] - values[None], axis=2)
    np.testing.assert_allclose(duplicates.distances(values), expected, atol=2e-3)


def test_the_usual_distance_is_the_median_of_random_pairs() -> None:
    values = vectors(400, 64)
    every = duplicates.distances(values)[np.triu_indices(400, 1)]
    assert features.usual_distance(values) == pytest.approx(float(np.median(every)), rel=0.01)


def test_neighbours_are_the_nearest_others_the_query_first() -> None:
    values = vectors(100, 6)
    places, away = features.nearest(values, 4)
    assert places.shape == (features.QUERIES, 5)
    for query, its, distances in zip(places[:, 0], places, away, strict=True):
        expected = np.linalg.norm(values - values[query], axis=1)
        assert its.tolist() == np.argsort(expected)[:5].tolist()
        np.testing.assert_allclose(distances, np.sort(expected)[:5])


def test_queries_are_far_from_each_other_and_no_outliers() -> None:
    clusters = np.repeat(np.eye(6, dtype=np.float32) * 10, 20, axis=0) + vectors(120, 6) * 0.01
    clusters[0] *= 1000
    chosen = features.spread(clusters, 6)
    assert 0 not in chosen
    assert {place // 20 for place in chosen} == set(range(6))


def test_of_few_different_vectors_there_are_as_many_queries() -> None:
    values = np.repeat(np.eye(3, dtype=np.float32), 10, axis=0)
    assert sorted(place // 10 for place in features.spread(values, 6)) == [0, 1, 2]


def test_near_duplicates_are_near_the_first_of_their_group() -> None:
    values = vectors(40, 16)
    for place, near in ((30, 3), (31, 3), (32, 7)):
        values[place] = values[near] + 0.01
    found = duplicates.near_duplicates(images(40), values, 0.1)
    groups = [sorted(image.uri[-8:-4] for image in group.images) for group in found.groups]
    assert groups == [["0003", "0030", "0031"], ["0007", "0032"]]
    assert (found.n_groups, found.n_images, found.compared) == (2, 5, 40)


def test_a_chain_is_no_group() -> None:
    line = np.arange(50, dtype=np.float32)[:, None] * np.ones((1, 3), np.float32)
    found = duplicates.gathered(duplicates.distances(line) <= 1.9)
    assert {len(group) for group in found} <= {2, 3}
    assert sorted(node for group in found for node in group) == sorted({n for g in found for n in g})


def test_equal_files_are_one_group_and_one_different_image() -> None:
    some = list(images(6))
    some[4] = Image("/photos/other.jpg", "1", some[1].sha256, 0, None)
    equal = duplicates.equal_contents(some)
    assert [[image.uri for image in group.images] for group in equal.groups] == [[some[1].uri, some[4].uri]]
    assert duplicates.different(some) == [0, 1, 2, 3, 5]


def test_dead_dimensions_and_bad_vectors_are_counted() -> None:
    values = vectors(10, 4)
    values[:, 2] = 0.5
    values[3, 0] = np.nan
    values[4, 1] = np.inf
    health = features.health(values)
    good = np.linalg.norm(np.delete(values, [3, 4], axis=0), axis=1)
    assert (health.rows, health.dimensions, health.dead, health.not_finite) == (10, 4, 1, 2)
    assert (health.least, health.median, health.most) == pytest.approx(
        (good.min(), np.median(good), good.max())
    )
    assert sum(each.images for each in health.norms) == 8


def test_vectors_that_are_all_alike_have_no_map() -> None:
    found = features.features(Rows(images(5), np.ones((5, 3), np.float32), 1, 0))
    assert found is not None
    assert (found.map, found.near, found.neighbours, found.health.norms) == (None, None, (), ())
    assert (found.health.dead, found.lacking) == (3, "The features of all these images are the same")
    two = features.features(Rows(images(2), vectors(2, 3), 1, 0))
    assert two is not None
    assert (two.map, two.lacking) == (None, "Fewer than three images have sound features")


def copies(count: int, of: Image) -> tuple[Image, ...]:
    return tuple(replace(of, uri=f"/copies/{number:04d}.jpg") for number in range(count))


def test_of_many_copies_one_is_compared_with_the_others() -> None:
    # Two batches give the same image vectors that differ a little.
    values = np.concatenate([vectors(20, 8), np.repeat(vectors(1, 8, seed=1), 180, axis=0)])
    values[100:] += 1e-6
    some = (*images(20), *copies(180, images(21)[20]))
    found = features.features(Rows(some, values, 1, 0))
    assert found is not None
    assert found.map is not None
    assert found.near is not None
    assert (len(found.map.points), found.compared, found.near.compared, found.lacking) == (200, 21, 21, "")
    assert len(found.neighbours) == features.QUERIES
    near = [near for query in found.neighbours for near in query.nearest]
    assert all(0.01 < each.distance < 10 for each in near)
    assert sum(each.image.uri.startswith("/copies/") for each in near) <= features.QUERIES


def test_copies_of_one_file_have_no_map() -> None:
    values = np.repeat(vectors(1, 8), 50, axis=0)
    values[25:] += 1e-3
    found = features.features(Rows(copies(50, images(1)[0]), values, 1, 0))
    assert found is not None
    assert (found.map, found.lacking) == (None, "These images are copies of one file")


def test_different_images_with_the_same_features_have_a_map_and_no_neighbours() -> None:
    values = np.concatenate([vectors(10, 8), np.repeat(vectors(1, 8, seed=1), 40, axis=0)])
    values[30:] += 1e-7
    found = features.features(Rows(images(50), values, 1, 0))
    assert found is not None
    assert found.map is not None
    assert (len(found.map.points), found.neighbours, found.near) == (50, (), None)
    assert found.lacking == "Most pairs of different images have features of the same direction"


def test_vectors_that_are_not_finite_are_on_no_map() -> None:
    values = vectors(8, 3)
    values[2, 1] = np.nan
    found = features.features(Rows(images(8), values, 1, 0))
    assert found is not None
    assert found.map is not None
    assert found.compared == 7
    assert sorted(point.image.uri for point in found.map.points) == [
        image.uri for number, image in enumerate(images(8)) if number != 2
    ]
    bad = features.features(Rows(images(8), np.full((8, 3), np.nan, np.float32), 1, 0))
    assert bad is not None
    assert (bad.map, bad.health.not_finite) == (None, 8)


def test_vectors_whose_squares_overflow_are_not_sound() -> None:
    values = vectors(20, 4)
    values[5] *= 1e22
    found = features.features(Rows(images(20), values, 1, 0))
    assert found is not None
    assert found.map is not None
    assert (len(found.map.points), found.health.not_finite) == (19, 1)
    assert np.isfinite(found.health.most)
    huge = features.features(Rows(images(20), vectors(20, 4) * np.float32(1e30), 1, 0))
    assert huge is not None
    assert (huge.map, huge.health.most, huge.health.not_finite) == (None, 0.0, 20)
    large = features.features(Rows(images(20), vectors(20, 4) * np.float32(1e13), 1, 0))
    assert large is not None
    assert large.map is not None
    assert 0 < sum(large.map.explained) <= 1


def test_no_direction_has_less_than_nothing_of_the_variance() -> None:
    for seed in range(20):
        random = np.random.default_rng(seed)
        line = np.outer(random.normal(size=50), random.normal(size=2)).astype(np.float32)
        first, second = features.pca_map(images(50), line).explained
        assert first <= 1
        assert second >= 0


def test_neighbours_are_those_of_directions() -> None:
    values = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [-1, 0], [-1, 0.1]], np.float32)
    values *= np.array([[1], [50], [1], [50], [1], [50]], np.float32)
    found = features.features(Rows(images(6), values, 1, 0))
    assert found is not None
    nearest = {
        int(query.image.uri[-8:-4]): int(query.nearest[0].image.uri[-8:-4]) for query in found.neighbours
    }
    assert len(nearest) >= 4
    assert all(near // 2 == query // 2 for query, near in nearest.items())
