{{ config(indexes=[{'columns': ['day'], 'unique': True}]) }}
select changed::date as day, sum(total) as total from {{ ref('mart_paid') }} group by 1
