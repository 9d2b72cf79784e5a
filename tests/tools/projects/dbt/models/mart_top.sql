{{ config(materialized='materialized_view') }}
select max(total) as total from {{ ref('mart_daily') }}
