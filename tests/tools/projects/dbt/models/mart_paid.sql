{{ config(materialized='view') }}
select id, total, changed from {{ source('shop', 'orders') }} where status = 'paid'
