-- Customers and their orders.
CREATE TYPE order_status AS ENUM ('new', 'paid');
CREATE TABLE customer (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email text NOT NULL UNIQUE
);
CREATE TABLE orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer_id bigint NOT NULL REFERENCES customer,
    status order_status NOT NULL DEFAULT 'new',
    total numeric(12, 2) NOT NULL,
    legacy text
);
CREATE INDEX orders_customer ON orders (customer_id);
CREATE TABLE obsolete (id bigint PRIMARY KEY);
