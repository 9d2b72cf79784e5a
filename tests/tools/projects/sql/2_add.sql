-- A note, who referred the customer, and no negative totals.
ALTER TABLE orders ADD COLUMN note text;
ALTER TABLE orders ADD COLUMN referrer_id bigint;
ALTER TABLE orders ADD CONSTRAINT orders_referrer FOREIGN KEY (referrer_id) REFERENCES customer;
ALTER TABLE orders ADD CONSTRAINT orders_total CHECK (total >= 0);
