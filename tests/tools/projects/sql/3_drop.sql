-- What nobody uses any more.
ALTER TABLE orders DROP COLUMN legacy;

-- Its rows went to orders in 2024.
DROP TABLE obsolete;
