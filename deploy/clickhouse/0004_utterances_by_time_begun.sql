-- `utterances_heard` gets another order of rows, which ClickHouse cannot give to a table that is there: 0005 makes it
-- anew and 0008 copies. Several files, because a rename can run twice only as long as nothing has the old name again.

DROP VIEW IF EXISTS utterances;

RENAME TABLE IF EXISTS utterances_heard TO utterances_heard_0003;
