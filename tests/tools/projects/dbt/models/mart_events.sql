{{ config(materialized='incremental', unique_key='id') }}
select id, status, changed from {{ source('shop', 'orders') }}
{% if is_incremental() %} where changed >= (select max(changed) from {{ this }}) {% endif %}
