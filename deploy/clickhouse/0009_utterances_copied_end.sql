-- Every row of it is in utterances_heard: 0008 has counted.

DROP TABLE IF EXISTS utterances_heard_0003;
