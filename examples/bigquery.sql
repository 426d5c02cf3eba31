-- A variant in BigQuery: load, classes by folder, neighbours, duplicates. For `bq query --use_legacy_sql=false < FILE`
-- or the console; replace my-bucket and mydata. One table a variant, since schemas differ between variants.

-- Load a variant's files. Without list inference an array would be a record, `features.list.element`.
LOAD DATA OVERWRITE mydata.b4
FROM FILES (
  format = 'PARQUET',
  enable_list_inference = TRUE,
  uris = ['gs://my-bucket/dataset/variant=google-efficientnet-b4-classification-1/*.parquet']
);

-- Or leave the files where they are: slower to ask, never out of date, and without a vector index.
CREATE OR REPLACE EXTERNAL TABLE mydata.b4_files
OPTIONS (
  format = 'PARQUET',
  enable_list_inference = TRUE,
  uris = ['gs://my-bucket/dataset/variant=google-efficientnet-b4-classification-1/*.parquet']
);

-- Which classes are most often among the best five of each folder's images?
SELECT
  REGEXP_EXTRACT(uri, r'([^/]+)/[^/]+$') AS folder,
  best.index AS class,
  ANY_VALUE(best.name) AS name,
  COUNT(*) AS images,
  ROUND(AVG(best.probability), 4) AS mean_probability
FROM mydata.b4, UNNEST(top_classes) AS best
GROUP BY folder, class
QUALIFY ROW_NUMBER() OVER (PARTITION BY folder ORDER BY images DESC, mean_probability DESC) <= 3
ORDER BY folder, images DESC, mean_probability DESC;

-- Which files are the same image, byte for byte?
SELECT
  sha256,
  MIN(uri) AS keep,
  COUNT(*) - 1 AS others,
  (COUNT(*) - 1) * ANY_VALUE(size) AS bytes
FROM mydata.b4
GROUP BY sha256
HAVING COUNT(*) > 1
ORDER BY keep;

-- An index for VECTOR_SEARCH. BigQuery builds it in the background; until then, and on small tables, the search is exact.
CREATE VECTOR INDEX IF NOT EXISTS b4_features
ON mydata.b4(features)
STORING (uri)
OPTIONS (index_type = 'IVF', distance_type = 'COSINE');

-- Which images look like this one? The first neighbour is the image itself.
SELECT base.uri, distance
FROM VECTOR_SEARCH(
  TABLE mydata.b4,
  'features',
  (SELECT features FROM mydata.b4 WHERE uri = 'gs://my-bucket/photographs/coffee/00.jpg'),
  top_k => 10,
  distance_type => 'COSINE'
)
ORDER BY distance;
